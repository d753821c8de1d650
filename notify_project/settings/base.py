"""Every setting, read from the environment here and nowhere else.

``make run`` writes a complete environment with generated secrets to ``.local/env``; it is read if it exists,
and a variable of the real environment wins over it. Nothing secret has a default.
"""

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import environ

from notify_project.database import bounded_connection
from notify_project.settings.broker import read_broker

BASE_DIR = Path(__file__).resolve().parent.parent.parent

env = environ.Env()
LOCAL_ENV_FILE = Path(env.str("NOTIFY_ENV_FILE", default=str(BASE_DIR / ".local" / "env")))
if LOCAL_ENV_FILE.is_file():
    env.read_env(str(LOCAL_ENV_FILE), overwrite=False)

# --- Django -----------------------------------------------------------------------------------------------------------
SECRET_KEY: str = env.str("SECRET_KEY")
# Keys of before: they still read what they signed (sessions, unsubscribe links).
SECRET_KEY_FALLBACKS: list[str] = env.list("SECRET_KEY_FALLBACKS", default=[])
DEBUG: bool = env.bool("DEBUG", default=False)
ALLOWED_HOSTS: list[str] = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
PUBLIC_URL: str = env.str("PUBLIC_URL", default="http://127.0.0.1:8000").rstrip("/")
CSRF_TRUSTED_ORIGINS: list[str] = env.list("CSRF_TRUSTED_ORIGINS", default=[PUBLIC_URL])

# Where PUBLIC_URL is https, cookies and browsers are told so.
_IS_HTTPS = PUBLIC_URL.startswith("https://")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _IS_HTTPS
SECURE_HSTS_SECONDS: int = env.int("HSTS_SECONDS", default=31_536_000 if _IS_HTTPS else 0)
# Proxies whose X-Forwarded-For and X-Forwarded-Proto count: addresses or networks.
TRUSTED_PROXIES = [ip_network(network) for network in env.list("TRUSTED_PROXIES", default=[])]
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if TRUSTED_PROXIES else None
SILENCED_SYSTEM_CHECKS = [
    "security.W005",  # the subdomains of PUBLIC_URL's host are not ours to bind
    "security.W008",  # who ends TLS redirects; here it would meet the probes, which come in plain
    "security.W021",  # nor is the browsers' preload list ours to ask for
]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "apps.clients",
    "apps.preferences",
    "apps.providers",
    "apps.delivery",
    "notify_project",
]
MIDDLEWARE = [
    "notify_project.middleware.TraceMiddleware",
    "notify_project.edge.EdgeMiddleware",
    "apps.clients.throttling.RateLimitHeadersMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "notify_project.middleware.StaticFilesMiddleware",
    "notify_project.middleware.BrowserSessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "notify_project.middleware.BrowserAuthenticationMiddleware",
    "notify_project.middleware.BrowserMessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "notify_project.urls"
WSGI_APPLICATION = "notify_project.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATA_UPLOAD_MAX_MEMORY_SIZE = env.int("MAX_BODY_BYTES", default=1_048_576)
# Routes that take more, by path.
BODY_LIMITS: dict[str, int] = {"/v1/notifications/batch": env.int("MAX_BATCH_BODY_BYTES", default=8_388_608)}
APPEND_SLASH = False
# --- Web processes (see notify_project/front.py) ----------------------------------------------------------------------
# More threads than DATABASE_POOL_MAX wait for one another.
WEB_THREADS: int = env.int("WEB_THREADS", default=16)
# From the end of the headers to the end of the body; until a thread is free; bytes of all bodies that are arriving.
WEB_BODY_TIMEOUT_S: float = env.float("WEB_BODY_TIMEOUT_S", default=10.0)
WEB_QUEUE_TIMEOUT_S: float = env.float("WEB_QUEUE_TIMEOUT_S", default=5.0)
WEB_BUFFER_BYTES: int = env.int("WEB_BUFFER_BYTES", default=134_217_728)

# --- Stores -----------------------------------------------------------------------------------------------------------
DATABASES: dict[str, dict[str, Any]] = {"default": env.db_url("DATABASE_URL")}
DATABASES["default"].update(
    {
        "ENGINE": "django.db.backends.postgresql",
        "CONN_MAX_AGE": 0,  # the psycopg pool keeps the connections
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {
            **DATABASES["default"].get("OPTIONS", {}),
            "pool": {
                "min_size": env.int("DATABASE_POOL_MIN", default=1),
                "max_size": env.int("DATABASE_POOL_MAX", default=16),
                "timeout": env.float("DATABASE_POOL_TIMEOUT_S", default=0.8),
                # The pauses between attempts to connect double; past this long they begin anew, so that a database
                # that was away for minutes is back within seconds. psycopg_pool's own limit is five minutes.
                "reconnect_timeout": env.float("DATABASE_RECONNECT_TIMEOUT_S", default=3.0),
            },
            "connect_timeout": env.int("DATABASE_CONNECT_TIMEOUT_S", default=3),
            # What asks for it by itself is prepared, nothing else.
            "prepare_threshold": 1_000_000 if env.bool("DATABASE_PREPARE", default=True) else None,
            # A server that vanished without a word is noticed within seconds, not after TCP's quarter of an hour.
            "tcp_user_timeout": 5_000,
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 3,
            # Nobody waits long for a row: the second request with an idempotency key answers 409 instead.
            "options": f"-c lock_timeout={env.int('DATABASE_LOCK_TIMEOUT_MS', default=2_000)}",
        },
    }
)
# Set for web, where somebody waits, and for workers, whose threads a silent database would hold for ever
# (local/roles.py); 0 in commands, some of whose statements are long.
DATABASE_STATEMENT_TIMEOUT_MS: int = env.int("DATABASE_STATEMENT_TIMEOUT_MS", default=0)
_patience_s = 0.0
if DATABASE_STATEMENT_TIMEOUT_MS:
    DATABASES["default"]["OPTIONS"]["options"] += f" -c statement_timeout={DATABASE_STATEMENT_TIMEOUT_MS}"
    _patience_s = DATABASE_STATEMENT_TIMEOUT_MS / 1000 + 1  # the server has the first word
DATABASES["default"]["OPTIONS"]["pool"]["connection_class"] = bounded_connection(_patience_s)
CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": env.str("CACHE_URL"),
        "OPTIONS": {
            "SOCKET_CONNECT_TIMEOUT": 0.5,
            "SOCKET_TIMEOUT": 0.5,
            "CONNECTION_POOL_KWARGS": {"health_check_interval": 30},
            "CONNECTION_POOL_CLASS": "notify_project.lean_redis.LeanPool",
            "REDIS_CLIENT_CLASS": "notify_project.lean_redis.LeanRedis",
        },
    }
}

# --- Secrets of our own (see apps/preferences/cipher.py, apps/clients/) -----------------------------------------------
# PII_KEYS is a keyring: "1:base64key,2:base64key"; PII_ACTIVE_KEY names the one that encrypts.
PII_KEYS: dict[str, str] = dict(entry.split(":", 1) for entry in env.list("PII_KEYS"))
PII_ACTIVE_KEY: str = env.str("PII_ACTIVE_KEY", default=max(PII_KEYS, key=int))
BLIND_INDEX_KEY: str = env.str("BLIND_INDEX_KEY")
API_KEY_PEPPER: str = env.str("API_KEY_PEPPER")
PUSH_ACK_KEY: str = env.str("PUSH_ACK_KEY")
JWT_AUDIENCE: str = env.str("JWT_AUDIENCE", default="notify")
# While Redis is away each web or worker process allows itself this share of every rate limit: 1 / number of processes.
RATE_LIMIT_LOCAL_SHARE: float = env.float("RATE_LIMIT_LOCAL_SHARE", default=0.25)

# --- Preferences (see apps/preferences/) ------------------------------------------------------------------------------
# Quiet hours of somebody whose time zone is not known: the zone to read them in, or "suppress", or "send".
QUIET_HOURS_WITHOUT_ZONE: str = env.str("QUIET_HOURS_WITHOUT_ZONE", default="UTC")
# A device not seen for so long is switched off: FCM drops Android tokens after 270 days.
DEVICE_MAX_AGE_DAYS: int = env.int("DEVICE_MAX_AGE_DAYS", default=270)
# How long a device that was switched off is remembered, an erased recipient's empty row (it must outlive the delivery
# log), and a suppression after it was lifted.
DEVICE_FORGET_DAYS: int = env.int("DEVICE_FORGET_DAYS", default=30)
TOMBSTONE_DAYS: int = env.int("TOMBSTONE_DAYS", default=90)
SUPPRESSION_HISTORY_DAYS: int = env.int("SUPPRESSION_HISTORY_DAYS", default=365)
# How long an unsubscribe link in an e-mail works; 15 USC 7704(a)(3) asks for 30 at least.
UNSUBSCRIBE_LINK_DAYS: int = env.int("UNSUBSCRIBE_LINK_DAYS", default=90)

# --- Providers (see apps/providers/registry.py) -----------------------------------------------------------------------
PROVIDER_CA_FILE: str = env.str("PROVIDER_CA_FILE", default="")
PROVIDER_TIMEOUT_S: float = env.float("PROVIDER_TIMEOUT_S", default=2.0)
PROVIDER_CONNECT_TIMEOUT_S: float = env.float("PROVIDER_CONNECT_TIMEOUT_S", default=1.0)
# A provider at which half of the calls fail is left alone for so long, twice as long each time it has not recovered.
BREAKER_OPEN_S: float = env.float("BREAKER_OPEN_S", default=5.0)
BREAKER_MAX_OPEN_S: float = env.float("BREAKER_MAX_OPEN_S", default=60.0)


def _quota(prefix: str, per_second: int = 0, per_minute: int = 0) -> dict[str, int]:
    """Messages an account may send, 0 for no limit: what the provider publishes, unless the environment says else."""
    return {
        "per_second": env.int(f"{prefix}_QUOTA_PER_SECOND", default=per_second),
        "per_minute": env.int(f"{prefix}_QUOTA_PER_MINUTE", default=per_minute),
    }


SES_REGION: str = env.str("SES_REGION", default="")
# One entry per provider account: a stable number (stored with deliveries), the adapter, its quota, its options, and
# those of them without which the account is switched off, and without which its receipts cannot be believed.
PROVIDERS: dict[str, dict[str, Any]] = {
    "fcm": {
        "id": 1,
        "adapter": "apps.providers.adapters.fcm.FcmAdapter",
        "quota": _quota("FCM", per_second=10_000, per_minute=600_000),
        "credentials": ("service_account_file",),
        "options": {
            "base_url": env.str("FCM_BASE_URL", default="https://fcm.googleapis.com"),
            "service_account_file": env.str("FCM_SERVICE_ACCOUNT_FILE", default=""),
            "address_field": env.str("FCM_ADDRESS_FIELD", default="token"),
            "ack_key": PUSH_ACK_KEY,
        },
    },
    "apns": {
        "id": 2,
        "adapter": "apps.providers.adapters.apns.ApnsAdapter",
        "quota": _quota("APNS"),
        "credentials": ("key_file", "key_id", "team_id", "topic"),
        "options": {
            "base_url": env.str("APNS_BASE_URL", default="https://api.push.apple.com"),
            "key_file": env.str("APNS_KEY_FILE", default=""),
            "key_id": env.str("APNS_KEY_ID", default=""),
            "team_id": env.str("APNS_TEAM_ID", default=""),
            "topic": env.str("APNS_TOPIC", default=""),
            "ack_key": PUSH_ACK_KEY,
        },
    },
    "twilio": {
        "id": 3,
        "adapter": "apps.providers.adapters.twilio.TwilioAdapter",
        "quota": _quota("TWILIO"),
        "credentials": ("account_sid", "auth_token", "sender"),
        "options": {
            "base_url": env.str("TWILIO_BASE_URL", default="https://api.twilio.com"),
            "account_sid": env.str("TWILIO_ACCOUNT_SID", default=""),
            "auth_token": env.str("TWILIO_AUTH_TOKEN", default=""),
            "sender": env.str("TWILIO_FROM", default=""),
            "webhook_keys": env.dict("TWILIO_WEBHOOK_KEYS", default={}),
        },
    },
    "vonage": {
        "id": 4,
        "adapter": "apps.providers.adapters.vonage.VonageAdapter",
        "quota": _quota("VONAGE", per_second=30),
        "credentials": ("api_key", "api_secret"),
        "receipts_need": ("signature_secret",),
        "options": {
            "base_url": env.str("VONAGE_BASE_URL", default="https://rest.nexmo.com"),
            "api_key": env.str("VONAGE_API_KEY", default=""),
            "api_secret": env.str("VONAGE_API_SECRET", default=""),
            "sender": env.str("VONAGE_FROM", default=""),
            "signature_secret": env.str("VONAGE_SIGNATURE_SECRET", default=""),
            "signature_method": env.str("VONAGE_SIGNATURE_METHOD", default="sha256"),
        },
    },
    "vonage_messages": {
        "id": 9,
        "adapter": "apps.providers.adapters.vonage_messages.VonageMessagesAdapter",
        "quota": _quota("VONAGE_MESSAGES"),
        "credentials": ("application_id", "private_key_file", "api_key"),
        "receipts_need": ("signature_secret",),
        "options": {
            "base_url": env.str("VONAGE_MESSAGES_BASE_URL", default="https://api.nexmo.com"),
            "application_id": env.str("VONAGE_APPLICATION_ID", default=""),
            "private_key_file": env.str("VONAGE_PRIVATE_KEY_FILE", default=""),
            "api_key": env.str("VONAGE_API_KEY", default=""),
            "api_secret": env.str("VONAGE_API_SECRET", default=""),
            "sender": env.str("VONAGE_FROM", default=""),
            "signature_secret": env.str("VONAGE_SIGNATURE_SECRET", default=""),
        },
    },
    "sendgrid": {
        "id": 5,
        "adapter": "apps.providers.adapters.sendgrid.SendGridAdapter",
        "quota": _quota("SENDGRID"),
        "credentials": ("api_key", "from_email"),
        "receipts_need": ("webhook_public_key",),
        "options": {
            "base_url": env.str("SENDGRID_BASE_URL", default="https://api.sendgrid.com"),
            "api_key": env.str("SENDGRID_API_KEY", default=""),
            "from_email": env.str("SENDGRID_FROM_EMAIL", default=""),
            "from_name": env.str("SENDGRID_FROM_NAME", default=""),
            "webhook_public_key": env.str("SENDGRID_WEBHOOK_PUBLIC_KEY", default=""),
        },
    },
    "ses": {
        "id": 6,
        "adapter": "apps.providers.adapters.ses.SesAdapter",
        "quota": _quota("SES"),
        "credentials": ("access_key_id", "secret_access_key"),
        "receipts_need": ("topic_arns",),
        "options": {
            "base_url": env.str("SES_BASE_URL", default="") or f"https://email.{SES_REGION}.amazonaws.com",
            "region": SES_REGION,
            "access_key_id": env.str("SES_ACCESS_KEY_ID", default=""),
            "secret_access_key": env.str("SES_SECRET_ACCESS_KEY", default=""),
            "from_email": env.str("SES_FROM_EMAIL", default=""),
            "from_name": env.str("SES_FROM_NAME", default=""),
            "configuration_set": env.str("SES_CONFIGURATION_SET", default=""),
            "topic_arns": env.list("SES_SNS_TOPIC_ARNS", default=[]),
            "sns_cert_hosts": env.list("SES_SNS_CERT_HOSTS", default=[]),
        },
    },
    "smtp": {
        "id": 7,
        "adapter": "apps.providers.adapters.smtp.SmtpAdapter",
        "quota": _quota("SMTP"),
        "timeout_s": env.float("SMTP_TIMEOUT_S", default=10.0),  # mail servers look at an e-mail before they take it
        "credentials": ("host",),
        "options": {
            "host": env.str("SMTP_HOST", default=""),
            "port": env.int("SMTP_PORT", default=587),
            "tls": env.str("SMTP_TLS", default="starttls"),
            "user": env.str("SMTP_USER", default=""),
            "password": env.str("SMTP_PASSWORD", default=""),
            "from_email": env.str("SMTP_FROM_EMAIL", default=""),
            "from_name": env.str("SMTP_FROM_NAME", default=""),
        },
    },
    "telnyx": {
        "id": 10,
        "adapter": "apps.providers.adapters.telnyx.TelnyxAdapter",
        "quota": _quota("TELNYX"),
        "credentials": ("api_key", "sender"),
        "receipts_need": ("public_key",),
        "options": {
            "base_url": env.str("TELNYX_BASE_URL", default="https://api.telnyx.com"),
            "api_key": env.str("TELNYX_API_KEY", default=""),
            "sender": env.str("TELNYX_FROM", default=""),
            "messaging_profile_id": env.str("TELNYX_MESSAGING_PROFILE_ID", default=""),
            "public_key": env.str("TELNYX_PUBLIC_KEY", default=""),
        },
    },
    "webpush": {
        "id": 8,
        "adapter": "apps.providers.adapters.webpush.WebPushAdapter",
        "quota": _quota("WEBPUSH"),
        "credentials": ("vapid_private_key", "vapid_private_key_file", "subject"),
        "options": {
            "vapid_private_key": env.str("WEBPUSH_VAPID_PRIVATE_KEY", default=""),
            "vapid_private_key_file": env.str("WEBPUSH_VAPID_PRIVATE_KEY_FILE", default=""),
            "subject": env.str("WEBPUSH_SUBJECT", default=""),
            "allowed_hosts": env.list(
                "WEBPUSH_ALLOWED_HOSTS",
                default=[
                    "fcm.googleapis.com",
                    "push.services.mozilla.com",
                    "notify.windows.com",
                    "web.push.apple.com",
                ],
            ),
            "ack_key": PUSH_ACK_KEY,
        },
    },
}
# Where the local sandbox's control API listens; only the demo and the tests ask for it.
SANDBOX_URL: str = env.str("SANDBOX_URL", default=f"http://127.0.0.1:{env.int('SANDBOX_HTTP_PORT', default=8025)}")
# Per channel, or part of it, the provider aliases in order of preference; those without credentials are passed over.
# Routes made in the admin win (apps/providers/routing.py).
ROUTES: dict[str, list[str]] = {
    "push": env.list("ROUTE_PUSH", default=["fcm"]),
    "push:ios": env.list("ROUTE_PUSH_IOS", default=["apns", "fcm"]),
    "push:web": env.list("ROUTE_PUSH_WEB", default=["webpush"]),
    "sms": env.list("ROUTE_SMS", default=["twilio", "vonage", "telnyx"]),
    "email": env.list("ROUTE_EMAIL", default=["sendgrid", "ses", "smtp"]),
}

# --- Delivery (see apps/delivery/) ------------------------------------------------------------------------------------
WORKER_NICE: int = env.int("WORKER_NICE", default=0)  # how far a worker gives way to others, 0 to 19: priority.py
BROADCAST_YIELD: int = env.int("BROADCAST_YIELD", default=12)  # see apps/yielding.py; 0: a broadcast never waits
WORKER_THREADS: int = env.int("WORKER_THREADS", default=8)  # what `celery worker --concurrency` is given
DELIVERY_MAX_ATTEMPTS: int = env.int("DELIVERY_MAX_ATTEMPTS", default=5)
DELIVERY_BACKOFF_BASE_S: float = env.float("DELIVERY_BACKOFF_BASE_S", default=2.0)
DELIVERY_BACKOFF_MAX_S: float = env.float("DELIVERY_BACKOFF_MAX_S", default=900.0)
DELIVERY_MAX_AGE_S: float = env.float("DELIVERY_MAX_AGE_S", default=86_400.0)  # how long it may wait for a provider
DELIVERY_LEASE_S: float = env.float("DELIVERY_LEASE_S", default=30.0)  # must exceed the transport's total time-out
DELIVERY_RETENTION_DAYS: int = env.int("DELIVERY_RETENTION_DAYS", default=30)
IDEMPOTENCY_RETENTION_DAYS: int = env.int("IDEMPOTENCY_RETENTION_DAYS", default=7)

# --- API --------------------------------------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["apps.clients.authentication.ClientAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["apps.clients.permissions.HasScope"],
    "DEFAULT_THROTTLE_CLASSES": ["apps.clients.throttling.TierThrottle"],
    "DEFAULT_PARSER_CLASSES": ["notify_project.parsers.JSONParser"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "notify_project.renderers.JSONNegotiation",
    "DEFAULT_RENDERER_CLASSES": ["notify_project.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "notify_project.schema.ProblemAutoSchema",
    "EXCEPTION_HANDLER": "notify_project.problems.exception_handler",
    "UNAUTHENTICATED_USER": None,
    "UNAUTHENTICATED_TOKEN": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Notification platform",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SCHEMA_PATH_PREFIX": "/v1",
    "SERVE_INCLUDE_SCHEMA": False,
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "notify_project.schema.describe_api",
    ],
    "SERVE_AUTHENTICATION": [],
    "SERVE_PERMISSIONS": [],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}

# --- Celery: every value has its reason in docs/decisions/0002-celery-settings.md -------------------------------------
_broker = read_broker(
    env.str("BROKER_URL"),
    # Where BROKER_URL names Sentinels: what they call the broker, and their own password.
    sentinel_master=env.str("BROKER_SENTINEL_MASTER", default="mymaster"),
    sentinel_password=env.str("BROKER_SENTINEL_PASSWORD", default=""),
)
BROKER_URL: str = _broker.url
BROKER_IS_AMQP: bool = _broker.is_amqp
CELERY_BROKER_URL = BROKER_URL
CELERY_TASK_QUEUES = _broker.queues
CELERY_TASK_DEFAULT_QUEUE = "notif.maintenance"
CELERY_TASK_DEFAULT_EXCHANGE = "notif"
CELERY_TASK_DEFAULT_ROUTING_KEY = "notif.maintenance"
CELERY_TASK_DEFAULT_EXCHANGE_TYPE = "direct"
CELERY_TASK_CREATE_MISSING_QUEUES = False
# Beat keeps one channel, and only a publish that may be retried opens it again after the broker went away.
_FROM_BEAT: dict[str, Any] = {
    "queue": "notif.maintenance",
    "declare": [],  # manage.py declare_topology does that
    "retry": True,
    "retry_policy": {"max_retries": 1, "interval_start": 0},
}
CELERY_BEAT_SCHEDULE = {
    # A sweep that has not begun by the time the next ones are due is dropped: they do its work.
    "sweep": {"task": "notify.sweep", "schedule": 1.0, "options": {**_FROM_BEAT, "expires": 5.0}},
    "maintain": {"task": "notify.maintain", "schedule": 3600.0, "options": _FROM_BEAT},
}
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_ACKS_ON_FAILURE_OR_TIMEOUT = True
CELERY_TASK_REJECT_ON_WORKER_LOST = False
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_PUBLISH_RETRY = False  # the sweep is the retry
CELERY_WORKER_CONSUMER = "notify_project.consumer:CarefulConsumer"
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 30.0
CELERY_WORKER_ENABLE_SOFT_SHUTDOWN_ON_IDLE = True
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_SEND_TASK_EVENTS = True  # Flower
CELERY_TASK_SEND_SENT_EVENT = False
CELERY_WORKER_ENABLE_REMOTE_CONTROL = True
CELERY_BROKER_CONNECTION_TIMEOUT = 2.0
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_CHANNEL_ERROR_RETRY = True
CELERY_BROKER_POOL_ACQUIRE_TIMEOUT = 2.0
CELERY_BROKER_NATIVE_DELAYED_DELIVERY_QUEUE_TYPE = "classic"
CELERY_BROKER_HEARTBEAT = 10
CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any] = _broker.transport_options

# --- Seeing inside ----------------------------------------------------------------------------------------------------
LOG_LEVEL: str = env.str("LOG_LEVEL", default="INFO")
LOG_FORMAT: str = env.str("LOG_FORMAT", default="json")  # json | console
LOGGING_CONFIG = "notify_project.logs.configure_logging"
LOGGING: dict[str, Any] = {"level": LOG_LEVEL, "format": LOG_FORMAT, "role": env.str("NOTIFY_ROLE", default="")}
# /metrics answers whoever shows this bearer token; without one, this machine only.
METRICS_TOKEN: str = env.str("METRICS_TOKEN", default="")
# Where a worker answers /metrics itself, if it shares no PROMETHEUS_MULTIPROC_DIR with web; 0: it does not.
METRICS_PORT: int = env.int("METRICS_PORT", default=0)
METRICS_HOST: str = env.str("METRICS_HOST", default="127.0.0.1")

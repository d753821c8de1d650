import django.contrib.postgres.fields
import django.core.validators
import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models


TIERS = [
    {"name": "standard", "requests_per_s": 100, "burst": 200},
    {"name": "high", "requests_per_s": 1000, "burst": 2000},
    {"name": "unlimited", "is_unlimited": True},
]


def seed_tiers(apps, schema_editor):
    tier_model = apps.get_model("clients", "RateTier")
    tier_model.objects.bulk_create([tier_model(**tier) for tier in TIERS])


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Client",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "name",
                    models.CharField(
                        max_length=80,
                        unique=True,
                        validators=[
                            django.core.validators.RegexValidator(
                                "^[\\x21-\\x7e]+\\Z", "Use printable ASCII characters without blanks."
                            )
                        ],
                    ),
                ),
                ("is_active", models.BooleanField(default=True)),
                (
                    "scopes",
                    django.contrib.postgres.fields.ArrayField(
                        base_field=models.CharField(
                            choices=[
                                ("notifications:write", "Send and cancel notifications"),
                                ("notifications:read", "Read its own notifications"),
                                ("preferences:write", "Write recipients, preferences and devices"),
                                ("preferences:read", "Read recipients, preferences and devices"),
                                ("broadcasts:write", "Create and steer broadcasts"),
                                ("broadcasts:read", "Read broadcasts and their progress"),
                                ("dead-letters:write", "Replay dead letters"),
                                ("dead-letters:read", "Read dead letters"),
                                ("ops:write", "Operate the platform: pause, resume, switch"),
                                ("ops:read", "Read the platform's state"),
                            ],
                            max_length=40,
                        ),
                        blank=True,
                        default=list,
                        size=None,
                    ),
                ),
                (
                    "weight",
                    models.PositiveSmallIntegerField(
                        default=1,
                        help_text="Share of a contended queue, relative to other clients.",
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(1000),
                        ],
                    ),
                ),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
            ],
            options={
                "ordering": ["name"],
            },
        ),
        migrations.CreateModel(
            name="ApiKey",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("prefix", models.CharField(editable=False, max_length=24, unique=True)),
                ("digest", models.BinaryField(max_length=32)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ("expires_at", models.DateTimeField(blank=True, null=True)),
                ("revoked_at", models.DateTimeField(blank=True, null=True)),
                ("last_used_at", models.DateTimeField(blank=True, editable=False, null=True)),
                (
                    "client",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="api_keys", to="clients.client"
                    ),
                ),
            ],
            options={
                "verbose_name": "API key",
                "ordering": ["-created_at"],
            },
        ),
        migrations.CreateModel(
            name="RateTier",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=40, unique=True)),
                (
                    "requests_per_s",
                    models.FloatField(default=100, validators=[django.core.validators.MinValueValidator(0.001)]),
                ),
                (
                    "burst",
                    models.PositiveIntegerField(default=200, validators=[django.core.validators.MinValueValidator(1)]),
                ),
                ("is_unlimited", models.BooleanField(default=False)),
            ],
            options={
                "ordering": ["name"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("burst__gte", 1), ("requests_per_s__gt", 0)),
                        name="rate_tier_positive_figures",
                    )
                ],
            },
        ),
        migrations.AddField(
            model_name="client",
            name="tier",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="clients", to="clients.ratetier"
            ),
        ),
        migrations.CreateModel(
            name="JwtKey",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "kid",
                    models.CharField(
                        max_length=100,
                        unique=True,
                        validators=[
                            django.core.validators.RegexValidator(
                                "^[\\x21-\\x7e]+\\Z", "Use printable ASCII characters without blanks."
                            )
                        ],
                        verbose_name="key id (kid)",
                    ),
                ),
                (
                    "algorithm",
                    models.CharField(
                        choices=[
                            ("RS256", "RS256 (RSA, SHA-256)"),
                            ("ES256", "ES256 (ECDSA, P-256)"),
                            ("EdDSA", "EdDSA (Ed25519)"),
                            ("HS256", "HS256 (shared secret)"),
                        ],
                        max_length=8,
                    ),
                ),
                ("public_key_pem", models.TextField(blank=True, verbose_name="public key (PEM)")),
                (
                    "jwks_file",
                    models.CharField(
                        blank=True, help_text="Path on the servers' disks.", max_length=255, verbose_name="JWKS file"
                    ),
                ),
                (
                    "issuer",
                    models.CharField(
                        blank=True, help_text="The iss claim of the tokens; required for a JWKS file.", max_length=255
                    ),
                ),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ("revoked_at", models.DateTimeField(blank=True, null=True)),
                (
                    "client",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="jwt_keys", to="clients.client"
                    ),
                ),
            ],
            options={
                "verbose_name": "JWT key",
                "ordering": ["-created_at"],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("revoked_at__isnull", True), models.Q(("jwks_file", ""), _negated=True)),
                        fields=("issuer",),
                        name="jwt_key_one_jwks_file_an_issuer",
                        violation_error_message="Another JWKS file is registered for this issuer.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("algorithm", "HS256"), ("jwks_file", ""), ("public_key_pem", "")),
                            models.Q(
                                models.Q(("algorithm", "HS256"), _negated=True),
                                models.Q(("public_key_pem", ""), _negated=True),
                                ("jwks_file", ""),
                            ),
                            models.Q(
                                models.Q(("algorithm", "HS256"), _negated=True),
                                ("public_key_pem", ""),
                                models.Q(("jwks_file", ""), _negated=True),
                                models.Q(("issuer", ""), _negated=True),
                            ),
                            _connector="OR",
                        ),
                        name="jwt_key_one_source",
                        violation_error_message="Give a PEM, or a JWKS file with its issuer, or for HS256 neither.",
                    ),
                ],
            },
        ),
        migrations.RunPython(seed_tiers, migrations.RunPython.noop),
    ]

"""Product teams' credentials: who may call the API, for what, and how fast."""

from django.contrib.postgres.fields import ArrayField
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.utils import timezone

from apps.clients.jwks import read_keys
from apps.clients.keys import Algorithm, load_public_key
from apps.clients.scopes import Scope

PRINTABLE = RegexValidator(r"^[\x21-\x7e]+\Z", "Use printable ASCII characters without blanks.")


class RateTier(models.Model):
    """How many API requests a client may make: a token bucket, or no limit for system-critical callers."""

    name = models.CharField(max_length=40, unique=True)
    requests_per_s = models.FloatField(default=100, validators=[MinValueValidator(0.001)])
    burst = models.PositiveIntegerField(default=200, validators=[MinValueValidator(1)])
    is_unlimited = models.BooleanField(default=False)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(requests_per_s__gt=0, burst__gte=1), name="rate_tier_positive_figures"
            )
        ]

    def __str__(self) -> str:
        return self.name


class Client(models.Model):
    """A product team's credential. Also what ``request.user`` and ``request.auth`` are in an API view."""

    name = models.CharField(max_length=80, unique=True, validators=[PRINTABLE])
    is_active = models.BooleanField(default=True)
    scopes = ArrayField(models.CharField(max_length=40, choices=Scope.choices), default=list, blank=True)
    tier = models.ForeignKey(RateTier, on_delete=models.PROTECT, related_name="clients")
    weight = models.PositiveSmallIntegerField(
        default=1,
        validators=[MinValueValidator(1), MaxValueValidator(1000)],
        help_text="Share of a contended queue, relative to other clients.",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["name"]

    # What Django and DRF ask of a request's user.
    is_authenticated = True
    is_anonymous = False

    def __str__(self) -> str:
        return self.name


class ApiKey(models.Model):
    """An API key ``prefix.secret``. Only the prefix and an HMAC of the whole key are stored."""

    client = models.ForeignKey(Client, on_delete=models.CASCADE, related_name="api_keys")
    prefix = models.CharField(max_length=24, unique=True, editable=False)
    digest = models.BinaryField(max_length=32, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        verbose_name = "API key"
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.prefix


class JwtKey(models.Model):
    """A key that verifies a client's JWTs: a registered public key, a JWKS file, or a derived HS256 secret.

    A token names its key by ``kid``. For a JWKS file the file holds the kids, and the token names the file by ``iss``.
    """

    client = models.ForeignKey(Client, on_delete=models.CASCADE, related_name="jwt_keys")
    kid = models.CharField("key id (kid)", max_length=100, unique=True, validators=[PRINTABLE])
    algorithm = models.CharField(max_length=8, choices=Algorithm.choices)
    public_key_pem = models.TextField("public key (PEM)", blank=True)
    jwks_file = models.CharField("JWKS file", max_length=255, blank=True, help_text="Path on the servers' disks.")
    issuer = models.CharField(
        max_length=255, blank=True, help_text="The iss claim of the tokens; required for a JWKS file."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = "JWT key"
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["issuer"],
                condition=models.Q(revoked_at__isnull=True) & ~models.Q(jwks_file=""),
                name="jwt_key_one_jwks_file_an_issuer",
                violation_error_message="Another JWKS file is registered for this issuer.",
            ),
            models.CheckConstraint(
                condition=models.Q(algorithm="HS256", public_key_pem="", jwks_file="")
                | (~models.Q(algorithm="HS256") & ~models.Q(public_key_pem="") & models.Q(jwks_file=""))
                | (
                    ~models.Q(algorithm="HS256")
                    & models.Q(public_key_pem="")
                    & ~models.Q(jwks_file="")
                    & ~models.Q(issuer="")
                ),
                name="jwt_key_one_source",
                violation_error_message="Give a PEM, or a JWKS file with its issuer, or for HS256 neither.",
            ),
        ]

    def __str__(self) -> str:
        return self.kid

    def clean(self) -> None:
        """Raise ``ValidationError`` for key material that could verify nothing."""
        if self.public_key_pem:
            try:
                load_public_key(self.public_key_pem, self.algorithm)
            except ValueError as error:
                raise ValidationError({"public_key_pem": str(error)}) from None
        if self.jwks_file:
            try:
                keys = read_keys(self.jwks_file, self.algorithm)
            except OSError as error:
                raise ValidationError({"jwks_file": f"The file cannot be read: {error.strerror}."}) from None
            except ValueError as error:
                raise ValidationError({"jwks_file": str(error)}) from None
            if not keys:
                raise ValidationError({"jwks_file": f"The file holds no key for {self.algorithm}."})

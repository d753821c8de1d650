"""What a client may do. A scope is a word in the database and in a token's ``scope`` claim: never rename one."""

from django.db.models import TextChoices


class Scope(TextChoices):
    NOTIFICATIONS_WRITE = "notifications:write", "Send and cancel notifications"
    NOTIFICATIONS_READ = "notifications:read", "Read its own notifications"
    PREFERENCES_WRITE = "preferences:write", "Write recipients, preferences and devices"
    PREFERENCES_READ = "preferences:read", "Read recipients, preferences and devices"
    PREFERENCES_EXPORT = "preferences:export", "Read all that is held about a person, in clear"
    BROADCASTS_WRITE = "broadcasts:write", "Create and steer broadcasts"
    BROADCASTS_READ = "broadcasts:read", "Read broadcasts and their progress"
    TEMPLATES_WRITE = "templates:write", "Make templates and switch their versions"
    TEMPLATES_READ = "templates:read", "Read and preview templates"
    DEAD_LETTERS_WRITE = "dead-letters:write", "Replay dead letters"
    DEAD_LETTERS_READ = "dead-letters:read", "Read dead letters"
    OPS_WRITE = "ops:write", "Operate the platform: pause, resume, switch"
    OPS_READ = "ops:read", "Read the platform's state"


ALL_SCOPES: tuple[str, ...] = tuple(Scope.values)

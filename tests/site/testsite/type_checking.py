"""Settings for the type checker's Django plugin, which imports every installed app.

Apps of this repository that have no models stay out: a mistake in one of them is then a message about that line, and
not the end of type checking everywhere.
"""

SECRET_KEY = "only-for-types"  # Django insists on one
INSTALLED_APPS = [
    "channels_delay",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "testsite.bound",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

"""Settings, from the environment and from `.env` beside manage.py. docs/settings.md lists every variable."""

from datetime import timedelta
from pathlib import Path

import environ
from csp.constants import SELF

from homelab import secret
from homelab.engines import database

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env()
env.read_env(BASE_DIR / ".env")

# What the operator sets

DATA_DIR = Path(env("HOMELAB_DATA_DIR", default=str(BASE_DIR / "data"))).absolute()
DATA_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)
SECRET_KEY = env("HOMELAB_SECRET_KEY", default="") or secret.read_or_make(DATA_DIR / "secret-key")
SQLITE_URL = f"sqlite:///{DATA_DIR / 'homelab.sqlite3'}"
SOURCE_URL = env("HOMELAB_SOURCE_URL", default="") or SQLITE_URL  # what migratedata copies
DATABASE_POOL = env.int("HOMELAB_DATABASE_POOL", default=12)  # the eight threads that serve, the tick, and a few
BIND = env("HOMELAB_BIND", default="127.0.0.1:8000")
PUBLIC_URL = env("HOMELAB_PUBLIC_URL", default="").rstrip("/")
TRUSTED_PROXY = env("HOMELAB_TRUSTED_PROXY", default="127.0.0.1")
TIME_ZONE = env("HOMELAB_TIME_ZONE", default="UTC")
DEBUG = env.bool("HOMELAB_DEBUG", default=False)
BACKUP_DIR = Path(env("HOMELAB_BACKUP_DIR")).absolute() if env("HOMELAB_BACKUP_DIR", default="") else None
BACKUP_KEEP = env.int("HOMELAB_BACKUP_KEEP", default=7)
RETENTION_READINGS_DAYS = env.int("HOMELAB_RETENTION_READINGS_DAYS", default=400)
RETENTION_EVENTS_DAYS = env.int("HOMELAB_RETENTION_EVENTS_DAYS", default=400)
RETENTION_HOURS_DAYS = env.int("HOMELAB_RETENTION_HOURS_DAYS", default=0)  # 0: for ever
RETENTION_VETH_DAYS = env.int("HOMELAB_RETENTION_VETH_DAYS", default=30)  # container links that are gone
THROTTLE = env.bool("HOMELAB_THROTTLE", default=True)  # off only to measure how much the hub can take
ALLOWED_HOSTS = env.list("HOMELAB_ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])

# Django

INSTALLED_APPS = [
    "homelab.apps.HomelabConfig",
    "servers.apps.ServersConfig",
    "metrics.apps.MetricsConfig",
    "homelab.apps.HubAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "drf_standardized_errors",
    "csp",
    "homelab.apps.SignInConfig",
]

MIDDLEWARE = [
    "homelab.middleware.RequestIdMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "homelab.middleware.ContentSecurityPolicyMiddleware",
    "homelab.middleware.ApiSlashMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]

ROOT_URLCONF = "homelab.urls"
WSGI_APPLICATION = "homelab.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
LANGUAGE_CODE = "en-us"
USE_I18N = False  # English alone: or each link of a page would ask for the language

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    }
]

# Database

DATABASES = {"default": database(env("DATABASE_URL", default="") or SQLITE_URL, pool_size=DATABASE_POOL)}
if DATABASES["default"]["ENGINE"] == "homelab.sqlite3":
    DATABASES["default"]["TEST"] = {"NAME": DATA_DIR / "test.sqlite3"}

# Static files

STATIC_URL = "/static/"
STATIC_ROOT = DATA_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
WHITENOISE_MANIFEST_STRICT = False

# Security

CONTENT_SECURITY_POLICY = {"DIRECTIVES": {"default-src": [SELF], "frame-ancestors": [SELF], "form-action": [SELF]}}
BEHIND_TLS = PUBLIC_URL.startswith("https://")
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = BEHIND_TLS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if BEHIND_TLS else None
SECURE_HSTS_SECONDS = 31_536_000 if BEHIND_TLS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = BEHIND_TLS
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin" if BEHIND_TLS else None  # browsers complain of it without TLS
SECURE_REDIRECT_EXEMPT = [r"^api/", r"^metrics/?$"]  # a key must never be sent on by a redirect
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL] if PUBLIC_URL else []
SESSION_COOKIE_AGE = 60 * 60 * 24 * 30
DATA_UPLOAD_MAX_MEMORY_SIZE = 1_048_576
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "admin:login"
PASSWORD_HASHERS = [
    "servers.passwords.Argon2Hasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",  # of older hubs; Argon2 takes over when the person signs in
]

# Signing in: five wrong passwords for one user from one address, and both wait. They are counted in this process, the
# only one that serves: on disk there is no trace of what was typed, and a full disk locks nobody out.

AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "servers.permissions.PermissionsAtOnce",
    "django.contrib.auth.backends.ModelBackend",
]
AXES_HANDLER = "axes.handlers.cache.AxesCacheHandler"
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_CLIENT_IP_CALLABLE = "servers.signing_in.address"
AXES_LOCKOUT_CALLABLE = "servers.signing_in.locked_out"
AXES_SENSITIVE_PARAMETERS = ["username"]  # for the log: some type their password there
AXES_VERBOSE = False
AXES_ENABLE_ADMIN = False
MIGRATION_MODULES = {"axes": None}  # what counts in the cache needs no tables
CACHES = {
    "default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"MAX_ENTRIES": 10_000}},
}
SILENCED_SYSTEM_CHECKS = ["axes.W001"]  # "a cache of one process": there is one

# API

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "servers.authentication.KeyAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["servers.permissions.CanRead"],
    "DEFAULT_PARSER_CLASSES": ["homelab.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "homelab.parsers.JSONNegotiation",
    "DEFAULT_SCHEMA_CLASS": "homelab.schema.ApiSchema",
    "EXCEPTION_HANDLER": "drf_standardized_errors.handler.exception_handler",
    "COERCE_DECIMAL_TO_STRING": False,
}

DRF_STANDARDIZED_ERRORS = {
    "EXCEPTION_HANDLER_CLASS": "homelab.errors.ErrorHandler",
    "EXCEPTION_FORMATTER_CLASS": "homelab.errors.ErrorFormatter",
}

SPECTACULAR_SETTINGS = {
    "TITLE": "Homelab",
    "DESCRIPTION": "How many bytes and packets passed each network interface of each server, and when.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["servers.permissions.CanRead"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SWAGGER_UI_SETTINGS": {"deepLinking": True, "validatorUrl": None},  # asks nobody else
    "SCHEMA_PATH_PREFIX": "/api/v[0-9]",
}

# Logging: to standard error, each line with its request's id; never a key, a cookie or a body.

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"request_id": {"()": "homelab.middleware.RequestIdFilter"}},
    "formatters": {"line": {"format": "{asctime} {levelname} {name} {request_id} {message}", "style": "{"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["request_id"]},
    },
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        "django": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "django.request": {"handlers": ["stderr"], "level": "ERROR", "propagate": False},
        "django.security.DisallowedHost": {"level": "CRITICAL", "propagate": False},
        "waitress.queue": {"level": "ERROR"},
        "psycopg.pool": {"level": "WARNING"},  # otherwise it tells of each connection that is lent
    },
}

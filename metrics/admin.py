from django.contrib import admin

from metrics.models import Interface

admin.site.register(Interface)

from django.db import migrations
from django.db.models import Max


def begin(apps, schema_editor):
    """Whatever was stored before may be anything: heartbeats that come from now on may go on plainly."""
    newest = {}
    for model, name in (("Heartbeat", "collected_at"), ("Interface", "sealed_until")):
        of_each = apps.get_model("metrics", model).objects.order_by().values_list("server_id").annotate(Max(name))
        for server, at in of_each:
            newest[server] = max(filter(None, (at, newest.get(server))), default=None)
    for snapshot in apps.get_model("servers", "Snapshot").objects.only("collected_at"):
        since = max(filter(None, (snapshot.collected_at, newest.get(snapshot.pk))), default=None)
        apps.get_model("servers", "Snapshot").objects.filter(pk=snapshot.pk).update(steady_since=since)


class Migration(migrations.Migration):

    dependencies = [
        ('metrics', '0005_index_what_is_looked_for_among_the_chunks'),
        ('servers', '0006_tell_since_when_heartbeats_go_on_plainly'),
    ]

    operations = [migrations.RunPython(begin, migrations.RunPython.noop)]

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('metrics', '0007_count_what_is_packed_as_version_2'),
        ('servers', '0006_tell_since_when_heartbeats_go_on_plainly'),
    ]

    operations = [
        migrations.AddIndex(
            model_name='heartbeat',
            index=models.Index(fields=['server', 'collected_at', 'boot_number'], name='standing_of_a_log'),
        ),
        migrations.RemoveIndex(
            model_name='heartbeat',
            name='heartbeats_of_a_server',
        ),
    ]

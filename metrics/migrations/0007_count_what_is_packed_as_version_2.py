from django.db import migrations, models


class Migration(migrations.Migration):
    """No table changes: SQLite would write the largest anew for a default that only Django knows."""

    dependencies = [
        ('metrics', '0006_begin_with_what_is_there'),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AlterField(
                    model_name='chunk',
                    name='codec_version',
                    field=models.PositiveSmallIntegerField(default=2),
                ),
            ],
        ),
    ]

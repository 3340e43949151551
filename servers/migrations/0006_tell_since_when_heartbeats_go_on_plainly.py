from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('servers', '0005_count_what_is_sealed_of_a_server'),
    ]

    operations = [
        migrations.AddField(
            model_name='snapshot',
            name='steady_since',
            field=models.DateTimeField(help_text='Each heartbeat collected after this goes on plainly from the one before; unknown: none.', null=True),
        ),
    ]

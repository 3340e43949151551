"""A tick that is killed anywhere and run again leaves what one leaves that nobody disturbed."""

import os
import subprocess
import sys
from pathlib import Path

from django.conf import settings

from homelab.tests.hub import hub_on_sqlite

pytestmark = hub_on_sqlite

KILLS = int(os.environ.get("TICK_KILLS", "3"))


def test_a_killed_tick_is_finished_by_the_next(tmp_path: Path):
    environment = {**os.environ, "HOMELAB_DATA_DIR": str(tmp_path)}
    environment.pop("DATABASE_URL", None)
    command = [sys.executable, "-m", "homelab.tests.kill_tick", str(KILLS)]
    done = subprocess.run(command, cwd=settings.BASE_DIR, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert f"{KILLS} ticks killed" in done.stdout, done.stdout

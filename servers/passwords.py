from django.contrib.auth.hashers import Argon2PasswordHasher


class Argon2Hasher(Argon2PasswordHasher):
    """Argon2id in 19 MiB, twice over, in one thread: OWASP's least, and what a Raspberry Pi has to spare.

    Eight threads that each check a password take 152 MiB; Django's own 100 MiB for each would be the machine's all.
    """

    time_cost = 2
    memory_cost = 19 * 1024  # KiB
    parallelism = 1

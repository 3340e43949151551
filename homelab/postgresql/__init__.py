"""Django's PostgreSQL backend, with sessions that keep their word and connections that are alive."""

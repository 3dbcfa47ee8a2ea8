"""Other tools' migrations: taken over, written for them, kept in step. Nothing of the guard knows of this."""

"""Archives of records: what each says of a record and its files, and how these are fetched.

Shared by the providers, which find out what a link means, and by the builders, which fetch exactly that. This room knows no build, no
database and no page.
"""

"""What is on disk: Arrow schemas, footer keys, row states, SQL views.  Imports nothing of ours."""

"""The broker's database: tables, migrations, and the transactions that take and give capacity."""

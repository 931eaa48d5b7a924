"""Score new shards every night, filter them, and prove that no row is missing.

clipsieve is called in an environment of its own: Airflow and Beam ask for other versions of
protobuf.  Parameters go to the shell as variables, never into the text of a command.
"""

from datetime import timedelta

import pendulum
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG, Param

#: Another command is writing to the folder: the task is skipped, and those behind it.
LOCKED = 75

with DAG(
    dag_id="clipsieve",
    schedule="0 2 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    params={
        "clipsieve": Param("/opt/clipsieve/bin/clipsieve", type="string"),
        "config": Param("/etc/clipsieve/clipsieve.toml", type="string"),
        "out": Param("/data/scores", type="string"),
        "subset": Param("keep", type="string"),
        "where": Param("clip_score >= 0.7 AND top_fraction(clip_similarity, 0.3)", type="string"),
    },
    default_args={
        "retries": 2,
        "retry_delay": timedelta(minutes=10),
        "skip_on_exit_code": LOCKED,
        "append_env": True,
        "env": {
            "CLIPSIEVE": "{{ params.clipsieve }}",
            "CONFIG": "{{ params.config }}",
            "OUT": "{{ params.out }}",
            "SUBSET": "{{ params.subset }}",
            "WHERE": "{{ params.where }}",
        },
    },
) as dag:
    run = BashOperator(
        task_id="run",
        bash_command='exec "$CLIPSIEVE" run --config "$CONFIG" --deadline 5h --log-format json',
        # Longer than the deadline by what scores from storage and the shard in hand take.
        execution_timeout=timedelta(hours=7),
    )
    keep = BashOperator(
        task_id="filter",
        bash_command='exec "$CLIPSIEVE" filter "$OUT" --name "$SUBSET" --where "$WHERE"',
        execution_timeout=timedelta(hours=1),
    )
    reconcile = BashOperator(
        task_id="reconcile",
        bash_command='exec "$CLIPSIEVE" reconcile "$OUT" --quick',
        execution_timeout=timedelta(hours=2),
        retries=0,  # what it finds does not mend itself
    )
    run >> keep >> reconcile

if __name__ == "__main__":
    dag.test()

"""`compare`: arms × seeds, fairly: each at its own learning rate, on the same prompts, with intervals.

YAML → load → Comparison → plans → StudyPlan (which jobs) → compare (workers do them) → Results

settings.py, arms.py   what is asked
plan.py, jobs.py       the jobs behind an arm, each named by what it depends on
courses.py, tuning.py  in which order: tune, run, test
foreman.py, workers.py who does them
work.py, measuring.py  how each is done, in a worker
collect.py, scored.py  what was found, with tests and intervals
"""

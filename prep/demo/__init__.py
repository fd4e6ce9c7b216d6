"""The demo: a synthetic dataset, the whole pipeline on it, and a page with the results."""

# The folders of a demo's two evaluations: of its model and of the model's student.
EVALUATION, STUDENT_EVALUATION = "evaluation", "student_evaluation"

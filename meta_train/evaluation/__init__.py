"""Meta-testing: a trained optimizer against tuned hand-designed ones, and the reports on the comparison.

curves, measure, threads   trainings: many settings x seeds x tasks of one shape in one program
cache                      what every run did, on disk, by a hash of what decides it
optimizers                 the optimizer under test and its rivals, each with its settings
baselines, rivals          the hand-designed optimizers; those that optax does not have
compare, target, scores    pure NumPy: three comparisons, steps to target, averages and intervals
timing                     milliseconds a step and bytes of state, of single trainings
document, tables           the results as JSON and CSV, and as rows of text
report, picture, page, leaderboard   the terminal, pictures, HTML, several evaluations side by side
"""

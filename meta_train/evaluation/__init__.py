"""Meta-testing: a trained optimizer against tuned hand-designed ones, and what is made of the comparison.

curves, measure   trainings: many settings x seeds x tasks of one shape in one program, kept on disk
optimizers        what is trained with: the optimizer under test, and its rivals, each with its settings
compare, scores   pure NumPy: three comparisons, their cells, averages and intervals
timing            milliseconds a step and bytes of state, of single trainings
report, picture, page, tabular, leaderboard   for people and programs
"""

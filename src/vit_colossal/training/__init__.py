"""From a plan to a trained model: job, step, loop, run."""

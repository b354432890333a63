"""Files, progress, card and curves of a training run, and the mining of hard negatives; m3core.train does the rest."""

"""How answers are scored: thin, typed faces over mir_eval, scikit-learn, sacrebleu, rouge-score and pycocoevalcap."""

"""The words around the tables of docs/published_answers.md."""

from __future__ import annotations

OPENING = """# Published answers, scored again

What 11 audio language models said to nine tasks of CMI-Bench (Ma et al., ISMIR 2025, arXiv
2506.12285; raw answers of its repository at 4c15f41, CC BY 4.0) goes through our scorers,
beside answers that hear nothing (*in italics*). In percent; brackets are 95 % bootstrap
intervals over recordings. `python -m mllm.eval.published --data DIR --output FILE` makes
this page. "paper's rule" is the rule of its evaluate.py, written anew and applied to the
same answers, so that a difference is one of rules; unread answers are wrong.

In short: **on key and on beats the best of eleven models is below a constant**; n-gram
scores of captions do not tell a person's caption from one fixed sentence, retrieval does.

## The nine tasks
"""

NOTES = {
    "GS_key": """Where ours differs from the paper's rule: it takes the first of the 24 keys, C major first,
whose letters are contained in the answer's letters, so an answer that lists several keys,
or denies one, is read as one of them (ltu_as 7.0 by its rule); ours reads an answer only
where it names one key. Its prompt lists keys as examples: mullama answers "C major" to
2,400 of 2,406 clips. "F minor" is the commonest key; "C minor" is the best constant, for
the weights also reward related keys. Intervals are over the 604 tracks.""",
    "GTZAN": """The rules differ for one model: theirs compares letters, and finds "pop" in musilingo's
"popular"; ours compares words. ltu and ltu_as mostly decline, or list all genres.""",
    "Nsynth_instrument": """The prompt offers piano, guitar, violin, cello, trumpet, saxophone, flute, clarinet, drum
and bass, but the truths are ten families of which only bass, guitar and flute are on that
list (41 % of the notes): who obeys the prompt is wrong on the rest. Where the rules differ,
theirs compares letters: "bassoon" is a right "bass" (flamingo), and a bass "which is a
stringed instrument" a wrong one, for it holds "string" (gama_it).""",
    "EMO_arousal": """The paper prints R² after it has brought truths and answers to mean 0 and variance 1, with
unread answers at the mean: about 2·correlation − 1, which is −100 % for answers that vary
at random. It also takes the first whole number from 1 to 9 wherever it stands, so that
copied examples ("Example 1: 2") are answers. Ours gives the correlation, and R² of the
numbers as they are; an answer with several numbers is unread. No model is more than 3
points of R² above the mean rating.""",
    "EMO_valence": """The file of answers repeats the truths of arousal, one for one, and its prompt asks for
arousal too: what the paper prints as valence (last column) is arousal again. Our columns
hold the answers against the true mean valence of EmoMusic.""",
    "gtzan_beat": """mir_eval's convention: beats before 5 s are left out of both (the paper leaves none out).
The grid of 120 BPM starts at 0 s and ends before 31 s; a faster grid gets more, because
more beats fall near one. A list with a span such as "0.4s-2.0s" is unread here and scores 0
there, and a time that is said twice counts once here.""",
    "ballroom_beat": """As above. Where a time that an answer repeats counts as often as it is said, the best model
has 22.0 in place of 21.9.""",
    "SDD": """r1, r10: the share of captions whose own track is the nearest, or among the ten nearest, of
all tracks, by all-MiniLM-L6-v2 and the mean of the track's captions; own−other: cosine with
the own track less that with the others, times 100. The first answer to each of 706 tracks
stands against all its captions. bleu, meteor, rouge_l and cider are pycocoevalcap's, for
comparison with papers only.

The fixed sentence is “{sentence}”: what a sentence gets depends on its length and on how
many of its words are common; others that we tried got BLEU-1 from 10 to 33. Against first
captions an earlier one of ours, which was not kept, had BLEU-1 23.9, METEOR 8.5 and ROUGE-L
18.5 beside the 23.8, 8.5 and 19.0 of this one. A person's
caption that was left out stands against the other captions of its track (230 tracks have
several, and it is searched for among these; among all 706, R@10 is 25.2). By n-grams the
two can hardly be told apart; by retrieval the sentence is at chance.

**qwen2 finds more tracks than people do.** Its answers paraphrase captions of the set ("a
constant melody throughout, accompanied by supplemental instruments used to supplement the
melody"): it has most likely seen them in training.

Where the paper differs: its BLEU is given strings and so counts characters, its ROUGE-L and
BERTScore are recall, which grows with length, its METEOR is NLTK's (about 1.8 times METEOR
1.5), and each of the 1,106 captions is a row of its own.""",
    "MusicCaps": """As for Song Describer, but 2,813 clips with one caption each, so there is no other person's
caption to set beside; retrieval is by TF-IDF, which compares words and not meanings. Chance
for r10 is 0.4.""",
}

CLOSING = """The longest option of MMAU's music questions is right for 40.4 % (40.3 where an option that
one question lists twice counts once), the second place for 40.1 %; the shortest option of
RUL-MuChoMusic for 40.9 % (leave one out: each question with each three of its four
distractors). A quarter would be chance. Our runs shuffle options by seed, and set such
guesses beside every score.
"""

"""The words by which claims about music are found in an answer. Data only; `claim_finders` says how they are used.

Where a value is a tuple of words, each is a phrase in lower case, matched at word boundaries.
"""

MODES = {
    "major": "major", "maj": "major", "ionian": "major", "minor": "minor", "min": "minor", "aeolian": "minor",
    "dorian": "dorian", "mixolydian": "mixolydian", "phrygian": "phrygian", "lydian": "lydian", "locrian": "locrian",
}  # fmt: skip
# After "A minor" these make it no key: an interval, a chord, or "a minor" as an article and an adjective.
NOT_A_KEY = ("key", "keys", "second", "third", "sixth", "seventh", "ninth", "interval", "mode")
CHORD_NOUNS = ("chord", "chords", "triad", "triads", "harmony", "harmonies", "progression", "arpeggio", "arpeggios")
CHORD_KINDS = {  # in words -> as written after the root
    "major seventh": "maj7", "minor seventh": "m7", "dominant seventh": "7", "diminished seventh": "dim7",
    "half-diminished seventh": "m7b5", "half-diminished": "m7b5", "major 7": "maj7", "minor 7": "m7",
    "dominant 7": "7", "seventh": "7", "major": "", "minor": "m", "diminished": "dim", "augmented": "aug",
}  # fmt: skip
THEORY = ("relative", "parallel", "dominant", "subdominant", "enharmonic", "equivalent", "scale degrees", "interval")
LATER = (
    "modulates to", "modulation to", "modulating to", "moves to", "changes to", "change to", "shifts to", "switches to",
    "goes to", "later in", "ends in", "then in", "modulates into", "turns to",
)  # fmt: skip

METRES = {
    "common time": (4, 4), "cut time": (2, 2), "cut common time": (2, 2), "alla breve": (2, 2), "waltz time": (3, 4),
    "two-four": (2, 4), "three-four": (3, 4), "four-four": (4, 4), "two-two": (2, 2), "three-eight": (3, 8),
    "six-eight": (6, 8), "nine-eight": (9, 8), "twelve-eight": (12, 8), "five-four": (5, 4), "seven-eight": (7, 8),
    "six-four": (6, 4), "three-two": (3, 2),
}  # fmt: skip
BEATS = {  # the note that a metronome mark counts, in quarters
    "quarter": 1.0, "crotchet": 1.0, "dotted quarter": 1.5, "dotted crotchet": 1.5, "half": 2.0, "minim": 2.0,
    "eighth": 0.5, "quaver": 0.5, "dotted half": 3.0, "dotted minim": 3.0, "♩": 1.0, "♩.": 1.5,
}  # fmt: skip
NUMBERS = {
    word: number
    for number, word in enumerate(
        "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
        "eighteen nineteen twenty".split(),
        1,
    )
} | {"twenty-four": 24, "thirty-two": 32, "forty-eight": 48, "sixty-four": 64}
ABOVE = ("over", "above", "more than", "at least", "faster than", "no slower than", "upwards of", "no fewer than")
BELOW = (
    "under",
    "below",
    "less than",
    "at most",
    "slower than",
    "no faster than",
    "up to",
    "fewer than",
    "no more than",
)

TEMPO_LINKS = (
    "is", "of", "at", "marking", "mark", "around", "about", "roughly", "approximately", "approx", "estimated", "to be",
    "near", "close to", "ca", "between", "from", *ABOVE, *BELOW, "(bpm)", "~", "a", "set",
)  # fmt: skip
PART_OF_NOTES = ("first", "last", "the", "these", "those", "opening", "final")
# Before a number of bars these make it a stretch of the piece, not its length; likewise after it.
PART_OF_BARS = (
    "first", "last", "next", "every", "each", "after", "for", "opening", "final", "over", "previous", "another",
    "these", "within", "about every", "lasts for", "bar", "bars", "measure", "measures", "to", "in the",
    "half of the",
)  # fmt: skip
NOT_A_LENGTH = (
    "phrase", "phrases", "section", "sections", "rest", "intro", "introduction", "pattern", "later", "loop", "in,",
    "into", "before", "after", "from", "each", "apart", "line", "lines",
)  # fmt: skip

# What instruments are called -> the General MIDI names, or parts of them, that it can be.
INSTRUMENTS = {
    "piano": ("piano",), "grand piano": ("grand piano",), "electric piano": ("electric piano",),
    "harpsichord": ("harpsichord",), "clavichord": ("clavinet",), "clavinet": ("clavinet",),
    "celesta": ("celesta",), "glockenspiel": ("glockenspiel",), "music box": ("music box",),
    "vibraphone": ("vibraphone",), "marimba": ("marimba",), "xylophone": ("xylophone",),
    "tubular bells": ("tubular bells",), "dulcimer": ("dulcimer",), "organ": ("organ",),
    "church organ": ("church organ",), "pipe organ": ("church organ",), "accordion": ("accordion",),
    "harmonica": ("harmonica",), "bandoneon": ("tango accordion",), "guitar": ("guitar",),
    "acoustic guitar": ("acoustic guitar",), "classical guitar": ("acoustic guitar (nylon)",),
    "nylon guitar": ("acoustic guitar (nylon)",), "electric guitar": ("electric guitar", "guitar (jazz", "overdriven",
    "distortion guitar"), "bass guitar": ("electric bass", "fretless bass", "slap bass"),
    "electric bass": ("electric bass", "fretless bass", "slap bass"),
    "double bass": ("contrabass", "double bass", "acoustic bass"), "contrabass": ("contrabass", "double bass"),
    "bass": ("bass",), "violin": ("violin",), "fiddle": ("violin", "fiddle"), "viola": ("viola",), "cello": ("cello",),
    "violoncello": ("cello",), "harp": ("harp",), "timpani": ("timpani",),
    "strings": ("string ensemble", "strings", "violin", "viola", "cello", "contrabass"),
    "choir": ("choir", "voice oohs"), "trumpet": ("trumpet",), "trombone": ("trombone",), "tuba": ("tuba",),
    "french horn": ("french horn", "horn"), "horn": ("horn",),
    "brass": ("brass", "trumpet", "trombone", "tuba", "french horn"), "saxophone": ("sax",), "sax": ("sax",),
    "soprano saxophone": ("soprano sax",), "alto saxophone": ("alto sax",), "tenor saxophone": ("tenor sax",),
    "baritone saxophone": ("baritone sax",), "soprano sax": ("soprano sax",), "alto sax": ("alto sax",),
    "tenor sax": ("tenor sax",), "baritone sax": ("baritone sax",), "oboe": ("oboe",),
    "english horn": ("english horn",), "cor anglais": ("english horn", "cor anglais"), "bassoon": ("bassoon",),
    "clarinet": ("clarinet",), "piccolo": ("piccolo",), "flute": ("flute",), "pan flute": ("pan flute",),
    "recorder": ("recorder",), "ocarina": ("ocarina",), "whistle": ("whistle",), "tin whistle": ("whistle",),
    "synthesizer": ("lead ", "pad ", "synth"), "synth": ("lead ", "pad ", "synth"), "sitar": ("sitar",),
    "banjo": ("banjo",), "mandolin": ("mandolin",), "shamisen": ("shamisen",), "koto": ("koto",),
    "kalimba": ("kalimba",), "bagpipe": ("bagpipe",), "bagpipes": ("bagpipe",), "steel drums": ("steel drums",),
    "drums": ("drums",), "drum kit": ("drums",), "percussion": ("drums", "percussion", "woodblock", "taiko", "timpani"),
}  # fmt: skip
NOT_AN_INSTRUMENT = {  # what these words are when others follow
    "bass": ("note", "notes", "clef", "line", "lines", "register", "part", "voice", "range"),
    "piano": ("dynamic", "dynamics", "roll", "marking", "score", "reduction", "keys"),
    "strings": ("of",), "horn": ("fifths",), "organ": ("point",), "drums": ("and bass",), "harp": ("on",),
}  # fmt: skip
LIKENESS = (
    "sounds like", "like a", "like an", "like the", "reminiscent of", "similar to", "as if by", "resembles",
    "marked", "imitating", "in the style of",
)  # fmt: skip
ALONE = ("only", "solo", "solely", "just", "unaccompanied", "nothing but", "exclusively")

NEGATORS = (
    "not", "no", "never", "without", "neither", "nor", "lacks", "lacking", "cannot", "rather than", "instead of",
    "absence of", "free of", "isn't", "aren't", "wasn't", "doesn't", "don't", "can't", "hasn't", "haven't",
    "does not", "nothing in",
)  # fmt: skip
NOT_NEGATORS = (
    "not only", "no doubt", "not just", "not merely", "no later than", "no fewer than", "no slower than",
    "no faster than", "no more than", "not surprisingly", "no wonder", "without doubt", "no question", "no.",
)  # fmt: skip
BOUNDARIES = ("but", "however", "yet", "though", "although", "while", "whereas", "instead", "it is", "it's", "which is",
              "this is", "because", "there is", "there are", "the key is", "it has", "only")  # fmt: skip
ABSENT = ("absent", "missing", "not", "never", "isn't", "aren't", "nowhere")
HEDGES = (
    "maybe", "perhaps", "probably", "possibly", "might", "may", "seems", "seem", "appears", "likely", "i think",
    "i believe", "sounds like", "could be",
)  # fmt: skip
# "not" and its like reach as far as the next comma, "no" and "without" over a whole list.
SHORT_REACH = frozenset(
    ("not", "than", "of", "isn't", "aren't", "wasn't", "doesn't", "don't", "can't", "hasn't", "haven't")
)
TURNS = ("but", "however", "yet", "though", "although")  # what comes after them stands for itself
# A sentence with one of these says nothing about the music as it is.
HYPOTHETICAL = (
    "if", "suppose", "supposing", "imagine", "assume", "assuming", "unless", "were it", "would be in",
    "had it been", "let's say", "for example", "e.g.", "don't think", "do not think", "don't believe", "do not believe",
    "i doubt", "doubtful", "unlikely", "hardly",
)  # fmt: skip
NOT_HYPOTHETICAL = (
    "if i'm not mistaken", "if i am not mistaken", "if i hear right", "if anything", "as if",
    "if i hear correctly", "if at all",
)  # fmt: skip
# From these words on to the end of the clause somebody else is quoted, or nobody decides.
UNDECIDED = (
    "you said", "you say", "you asked", "you ask", "you claim", "you wrote", "not sure", "unsure", "uncertain",
    "whether", "cannot tell", "can't tell", "cannot say", "can't say", "don't know", "do not know", "hard to say",
    "the question", "asked about", "unclear", "unable to", "to be determined",
)  # fmt: skip

CLIPS = ("clip", "recording", "score", "piece", "file", "track", "tune", "excerpt", "song", "audio", "one")
ORDINALS = {"first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "1st": 1, "2nd": 2, "3rd": 3, "4th": 4}
ALL_CLIPS = ("both", "all of them", "all clips", "all three", "each of them", "they all")

# The fields of a JSON answer, and of ABC text -> the sentence that says the same.
FIELDS = {
    "key": "key of {}", "key_signature": "key of {}", "tonality": "key of {}", "tempo": "tempo is {} ",
    "bpm": "{} bpm", "tempo_bpm": "{} bpm", "metre": "in {} time", "meter": "in {} time",
    "time_signature": "in {} time", "timesignature": "in {} time", "instrument": "played by {}",
    "instruments": "played by {}", "instrumentation": "played by {}", "bars": "has {} bars",
    "measures": "has {} bars", "bar_count": "has {} bars", "number_of_bars": "has {} bars",
    "num_bars": "has {} bars", "first_notes": "the first notes are {}", "first_note": "the first note is {}",
    "lowest": "the lowest note is {}", "lowest_note": "the lowest note is {}", "highest": "the highest note is {}",
    "highest_note": "the highest note is {}", "last_note": "the last note is {}", "range": "the range is {}",
    "chords": "the chords are {}", "chord_progression": "the progression is {}", "first_chord": "the first chord is {}",
    "notes": "has {} notes", "mode": "the mode is {}", "tonic": "the tonic is {}",
}  # fmt: skip
ABC_FIELDS = {"K": "key of {}", "M": "in {} time", "Q": "tempo {} "}
# With one of these an answer is a sentence, and not only the value that was asked for.
STATING = (
    "is",
    "are",
    "was",
    "has",
    "have",
    "it",
    "it's",
    "this",
    "plays",
    "in",
    "starts",
    "begins",
    "goes",
    "there",
    "not",
)
# What a question asks for -> the sentence that a bare answer stands for. The first row whose words are all there.
QUESTIONS = (
    (("first", "chord"), "the first chord is {}"), (("progression",), "the progression is {}"),
    (("chord",), "the chords are {}"), (("range",), "the range is {}"), (("compass",), "the range is {}"),
    (("between which notes",), "the range is {}"), (("lowest",), "the lowest note is {}"),
    (("bottom",), "the lowest note is {}"), (("how low",), "the lowest note is {}"),
    (("highest",), "the highest note is {}"), (("top note",), "the highest note is {}"),
    (("how high",), "the highest note is {}"), (("last note",), "the last note is {}"),
    (("first", "note"), "the first notes are {}"), (("begin", "note"), "the first notes are {}"),
    (("start", "note"), "the first notes are {}"), (("how many notes",), "has {} notes"),
    (("how many bars",), "has {} bars"), (("how many measures",), "has {} bars"), (("tonic",), "the tonic is {}"),
    (("major or minor",), "the mode is {}"), (("mode",), "the mode is {}"), (("key",), "key of {}"),
    (("time signature",), "in {} time"), (("metre",), "in {} time"), (("meter",), "in {} time"),
    (("beats grouped",), "in {} time"), (("tempo",), "{} bpm"), (("bpm",), "{} bpm"), (("how fast",), "{} bpm"),
    (("beats per minute",), "{} bpm"), (("instrument",), "played by {}"), (("played on",), "played by {}"),
)  # fmt: skip

"""What losses and mining rules are called elsewhere, for the sentence that says what they are called here."""

ENDINGS = ("lossfunction", "loss", "criterion", "miner", "mining")

ELSEWHERE = {
    # torch
    "tripletmargin": "triplet",
    "tripletmarginwithdistance": "triplet",
    "cosineembedding": "contrastive",
    "hingeembedding": "contrastive",
    "crossentropy": "normalized_softmax",
    # pytorch-metric-learning
    "generalizedliftedstructure": "lifted_structure_generalized",
    "npairs": "npair",
    "signaltonoiseratiocontrastive": "snr_contrastive",
    "ranking": "ranked_list",
    "batchhard": "hard",
    "batcheasy": "easy",
    "batcheasyhard": "easy_positive",
    "pairmargin": "interval",
    # sentence-transformers
    "multiplenegativesranking": "ntxent",
    "cachedmultiplenegativesranking": "ntxent",
    "multiplenegativessymmetricranking": "clip",
    "batchalltriplet": "triplet",
    "batchhardtriplet": "triplet",
    "batchhardsoftmargintriplet": "triplet",
    "batchsemihardtriplet": "triplet",
    "onlinecontrastive": "contrastive",
    "softmax": "normalized_softmax",
    # TensorFlow
    "tripletsemihard": "triplet",
    "triplethard": "triplet",
    "liftedstruct": "lifted_structure",
    # papers
    "infonce": "ntxent",
    "simclr": "ntxent",
    "normalizedtemperaturescaledcrossentropy": "ntxent",
    "supervisedcontrastive": "supcon",
    "additiveangularmargin": "arcface",
    "aamsoftmax": "arcface",
    "subcenter": "sub_center_arcface",
    "additivemarginsoftmax": "cosface",
    "amsoftmax": "cosface",
    "largemargincosine": "cosface",
    "lmcl": "cosface",
    "asoftmax": "sphereface",
    "angularsoftmax": "sphereface",
    "lsoftmax": "large_margin_softmax",
    "batchsemihard": "semi_hard",
    "facenet": "triplet",
    "normsoftmax": "normalized_softmax",
    "multisim": "multi_similarity",
}


def plain(word: str) -> str:
    """Return a name without its path, capitals, dashes, and what only says that it is a loss or a miner."""
    letters = "".join(c for c in word.rsplit(".", maxsplit=1)[-1].lower() if c.isalnum())
    for ending in ENDINGS:
        if letters.endswith(ending) and letters != ending:
            return letters.removesuffix(ending)
    return letters

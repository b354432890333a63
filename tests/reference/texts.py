"""The texts of the goldens, all written for threefold: many languages and scripts, odd characters, every limit.

Nothing large is stored: long texts are a few words repeated, each of them one XLM-R token.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice
from typing import Literal


@dataclass(frozen=True)
class ReferenceText:
    """One text of the goldens. `long` ones say nothing new about a model that reads 512 tokens.

    `body_tokens` is the number of XLM-R tokens without specials and prefix, where the text was built for one.
    """

    name: str
    kind: Literal["query", "passage"]
    text: str
    long: bool = False
    body_tokens: int | None = None


# A cycle of many different words, so that a shifted position or a lost token changes the result.
_WORDS = ("the", "house", "is", "near", "water", "and", "we", "see", "it", "from", "our", "room", "every", "day")
# Stands once, at the end: its lexical weight is there only if the last token was read.
_LAST = "Berlin"


def body_of(tokens: int) -> str:
    """A text of exactly `tokens` XLM-R tokens, specials not counted."""
    return " ".join([*islice(cycle(_WORDS), tokens - 1), _LAST])


_LANGUAGES = {
    "english": "The telescope dome closes by itself when the wind is stronger than fifteen metres per second.",
    "german": "Der Schlüssel zum Kühlraum liegt beim Pförtner; wer ihn verliert, meldet es sofort der Leitung.",
    "french": "Le dôme de l'observatoire se ferme dès que le vent dépasse quinze mètres par seconde.",
    "spanish": "La llave del laboratorio frío está en la recepción, y se entrega a las nueve de la mañana.",
    "portuguese": "A viagem noturna de trem é reembolsada em até trinta dias, se o bilhete for guardado.",
    "italian": "La biblioteca presta tre libri alla volta; il quarto si può leggere soltanto in sala.",
    "dutch": "De sluiswachter opent de poort alleen wanneer het water aan beide kanten even hoog staat.",
    "polish": "Klucz do pracowni wisi za drzwiami, a książka wpisów leży na stole obok okna.",
    "czech": "Noční vlak přijíždí v šest hodin; kdo ho zmešká, jede příštím bez příplatku.",
    "romanian": "Cheia se predă la poartă, iar registrul se semnează de două ori pe zi.",
    "hungarian": "A könyvtárban egyszerre három könyv vehető ki, a negyediket helyben lehet olvasni.",
    "finnish": "Kaukoputken kupu sulkeutuu itsestään, kun tuuli on yli viisitoista metriä sekunnissa.",
    "turkish": "Soğuk odanın anahtarı danışmadadır; kaybeden kişi bunu hemen bildirmelidir.",
    "russian": "Ключ от холодной лаборатории хранится у дежурного, журнал подписывают дважды в день.",
    "ukrainian": "Нічний потяг прибуває о шостій, а квиток можна повернути протягом тридцяти днів.",
    "greek": "Ο θόλος του τηλεσκοπίου κλείνει μόνος του όταν ο άνεμος δυναμώνει πολύ.",
    "georgian": "ბიბლიოთეკა ერთდროულად სამ წიგნს აძლევს მკითხველს.",
    "armenian": "Գիշերային գնացքը գալիս է ժամը վեցին։",
    "arabic": "مفتاح المختبر البارد موجود عند الاستقبال، ويجب توقيع السجل مرتين في اليوم.",
    "persian": "قطار شب ساعت شش می‌رسد و بلیت تا سی روز قابل بازگشت است.",
    "hebrew": "הכיפה של הטלסקופ נסגרת לבדה כשהרוח חזקה מדי.",
    "hindi": "ठंडी प्रयोगशाला की चाबी स्वागत कक्ष में है और सुबह नौ बजे दी जाती है।",
    "bengali": "গ্রন্থাগার একবারে তিনটি বই ধার দেয়।",
    "tamil": "நூலகம் ஒரே நேரத்தில் மூன்று புத்தகங்களைக் கடனாகத் தருகிறது.",
    "thai": "กุญแจห้องทดลองเย็นอยู่ที่แผนกต้อนรับ และต้องเซ็นชื่อวันละสองครั้ง",
    "vietnamese": "Chìa khóa phòng thí nghiệm lạnh ở quầy lễ tân, mỗi ngày phải ký sổ hai lần.",
    "indonesian": "Kunci laboratorium dingin ada di meja depan dan diserahkan pukul sembilan pagi.",
    "swahili": "Ufunguo wa maabara baridi uko mapokezi, na daftari husainiwa mara mbili kwa siku.",
    "chinese": "低温实验室的钥匙放在前台,早上九点交接,登记簿每天签两次。",
    "japanese": "低温実験室の鍵は受付にあり、毎朝九時に渡されます。",
    "korean": "저온 실험실 열쇠는 안내 데스크에 있고 아침 아홉 시에 건네줍니다.",
}

_QUERIES = {
    "english": "Where is the key of the cold laboratory?",
    "german": "Wann kommt der Nachtzug an?",
    "french": "Combien de livres peut-on emprunter ?",
    "spanish": "¿Cuándo se cierra la cúpula del telescopio?",
    "russian": "где лежит ключ",
    "greek": "πότε κλείνει ο θόλος;",
    "arabic": "أين مفتاح المختبر؟",
    "hebrew": "מתי נסגרת הכיפה",
    "hindi": "चाबी कहाँ है?",
    "thai": "กุญแจอยู่ที่ไหน",
    "chinese": "钥匙在哪里?",
    "japanese": "鍵はどこですか",
    "korean": "열쇠는 어디에 있습니까?",
    "turkish": "anahtar nerede",
    "swahili": "ufunguo uko wapi",
}

_ODD = {
    "empty": "",
    "one token": "key",
    "one character": "鍵",
    "spaces only": "   ",
    "line ends and tabs": "first line\n\tsecond line\r\n\r\nthird   line  with   gaps ",
    "repeated word": "key key key key key key key key",
    "repeated in case": "Key key KEY kEy key. Key, key!",
    "repeated sentence": "The key is here. The key is here. The key is here.",
    "unknown characters": "𐎀𐎁𐎂 key ꙮ \ue000\ue001 𒀀𒁀",
    "only unknown characters": "𐎀𐎁𐎂",
    "emoji": "🔑 is in the 🧊 room 👩🏽‍🔬👨‍👩‍👧‍👦 🇩🇪🇯🇵 ☕️",
    "NUL": "key\x00room\x00",
    "control characters": "key\x01\x02 bell\x07 escape\x1b[31m delete\x7f",
    "combining marks": "Schlu\u0308ssel e\u0301te\u0301 क\u093cि vie\u0302\u0323t",
    "composed marks": "Schlüssel été क़ि việt",
    "full width and ligatures": "Ｋｅｙ　１２３ ﬁnal ﬂoor ½ ² ™ ㎏ Ⅷ",
    "zero width": "\ufeffke\u200by ro\u200dom so\u00adft",
    "right to left mixed": "The word مفتاح means key, and מפתח does too (ключ, 鍵, κλειδί).",
    "mixed scripts": "keyключ鍵κλειδίمفتاح열쇠กุญแจचाबी in one word",
    "digits": "1234567890 3.14159 1,000,000 2026-08-14T09:00:00Z +49 30 1234567 ١٢٣ १२३",
    "code": "def key(room: str) -> int:\n    return {'cold': 1}.get(room, 0)  # look_up_the_key",
    "markup": '<p class="key">A &amp; B</p> [link](file.md) **bold** $x^2 \\le 3$ {"a": [1, null]}',
    "one very long word": "key" * 300,
    "no spaces": "鍵" * 200,
    "special token names": "a text may say <mask> or </s> or <s> or <unk> and go on",
    "rare punctuation": "«key» „room“ ‚cold‘ — … ‽ ⁂ † ‡ § ¶ № ⟨⟩ ∀x∃y: x≠y",
    # XLM-RoBERTa gives this token no position of its own.
    "pad token name": "the model fills a short row with <pad> and then reads on",
}

_QUERY_ODD = {
    "empty": "",
    "one token": "key",
    "emoji": "🔑?",
    "unknown characters": "𐎀",
    "repeated word": "key key key",
}


def _texts() -> tuple[ReferenceText, ...]:
    texts = [ReferenceText(f"passage {name}", "passage", text) for name, text in _LANGUAGES.items()]
    texts += [ReferenceText(f"query {name}", "query", text) for name, text in _QUERIES.items()]
    texts += [ReferenceText(f"passage {name}", "passage", text) for name, text in _ODD.items()]
    texts += [ReferenceText(f"query {name}", "query", text) for name, text in _QUERY_ODD.items()]
    # One below, at and one above 512 with the two specials: without a prefix, and with "query: " (3 tokens) or
    # "passage: " (2 tokens).
    texts += [_sized("query", tokens) for tokens in (506, 507, 508, 509, 510, 511)]
    texts += [_sized("passage", tokens) for tokens in (507, 508, 509, 1000)]
    # One below, at and one above 8192.
    texts += [_sized("passage", tokens, long=True) for tokens in (8189, 8190, 8191)]
    return tuple(texts)


def _sized(kind: Literal["query", "passage"], tokens: int, *, long: bool = False) -> ReferenceText:
    return ReferenceText(f"{kind} of {tokens} tokens", kind, body_of(tokens), long, tokens)


TEXTS = _texts()

# What a full-size model encodes in a minute of one core.
FEW = tuple(
    f"{kind} {name}"
    for kind, name in [
        ("query", "english"),
        ("query", "japanese"),
        ("query", "repeated word"),
        ("query", "empty"),
        ("passage", "english"),
        ("passage", "german"),
        ("passage", "japanese"),
        ("passage", "arabic"),
        ("passage", "empty"),
        ("passage", "one token"),
        ("passage", "repeated word"),
        ("passage", "unknown characters"),
        ("passage", "of 1000 tokens"),
    ]
)


def chosen_texts(names: tuple[str, ...] | None, *, long: bool) -> tuple[ReferenceText, ...]:
    """The texts of these names (None: all, the long ones only if `long`). Raises KeyError for a name not known."""
    if names is None:
        return tuple(text for text in TEXTS if long or not text.long)
    known = {text.name: text for text in TEXTS}
    return tuple(known[name] for name in names)

"""English names of languages, for what people read ("Basque ratio"). A code that is not listed is shown as it is."""
from __future__ import annotations

_LISTED = """
af Afrikaans|am Amharic|an Aragonese|ar Arabic|as Assamese|ast Asturian|ay Aymara|az Azerbaijani|ba Bashkir
be Belarusian|bew Betawi|bg Bulgarian|bm Bambara|bn Bangla|bo Tibetan|br Breton|bs Bosnian|ca Catalan|ceb Cebuano
chr Cherokee|ckb Central Kurdish|co Corsican|cs Czech|cv Chuvash|cy Welsh|da Danish|de German|doi Dogri
dsb Lower Sorbian|ee Ewe|el Greek|en English|eo Esperanto|es Spanish|et Estonian|eu Basque|fa Persian|ff Fula
fi Finnish|fil Filipino|fo Faroese|fr French|fur Friulian|fy Western Frisian|ga Irish|gd Scottish Gaelic|gl Galician
gn Guarani|gu Gujarati|ha Hausa|haw Hawaiian|he Hebrew|hi Hindi|hr Croatian|hsb Upper Sorbian|ht Haitian Creole
hu Hungarian|hy Armenian|ia Interlingua|id Indonesian|ig Igbo|is Icelandic|it Italian|ja Japanese|jv Javanese
ka Georgian|kab Kabyle|kk Kazakh|kl Kalaallisut|km Khmer|kn Kannada|ko Korean|kok Konkani|ku Kurdish|ky Kyrgyz
la Latin|lb Luxembourgish|lg Ganda|lij Ligurian|ln Lingala|lo Lao|lt Lithuanian|lv Latvian|mg Malagasy|mi Maori
mk Macedonian|ml Malayalam|mn Mongolian|mni Manipuri|mr Marathi|ms Malay|mt Maltese|my Burmese|nb Norwegian Bokmål
ne Nepali|nl Dutch|nn Norwegian Nynorsk|no Norwegian|nso Northern Sotho|ny Nyanja|oc Occitan|om Oromo|or Odia
os Ossetic|pa Punjabi|pl Polish|ps Pashto|pt Portuguese|quc Kʼicheʼ|qu Quechua|rm Romansh|ro Romanian|ru Russian
rw Kinyarwanda|sa Sanskrit|sah Yakut|sat Santali|sc Sardinian|sd Sindhi|se Northern Sami|si Sinhala|sk Slovak
sl Slovenian|sm Samoan|sn Shona|so Somali|sq Albanian|sr Serbian|st Southern Sotho|su Sundanese|sv Swedish|sw Swahili
szl Silesian|ta Tamil|te Telugu|tg Tajik|th Thai|ti Tigrinya|tk Turkmen|tl Tagalog|tn Tswana|to Tongan|tr Turkish
ts Tsonga|tt Tatar|ug Uyghur|uk Ukrainian|ur Urdu|uz Uzbek|vec Venetian|vi Vietnamese|wo Wolof|xh Xhosa|yi Yiddish
yo Yoruba|yue Cantonese|zh Chinese|zu Zulu"""

NAMES: dict[str, str] = dict(entry.split(" ", 1) for line in _LISTED.split("\n") if line for entry in line.split("|"))


def language_name(code: str) -> str:
    """"Basque" for "eu"; of a code with region or script ("pt-BR", "sr_Latn") the language's name and the rest."""
    head, *rest = code.replace("_", "-").split("-")
    name = NAMES.get(head.lower())
    if name is None:
        return code
    return f"{name} ({', '.join(rest)})" if rest else name

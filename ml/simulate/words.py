"""The words a simulated shop is made of: product types, colours, brands (all invented) and how people ask for them."""

from __future__ import annotations

from dataclasses import dataclass

AUDIENCES = ("Women", "Men", "Kids")
AUDIENCE_WORDS = (
    ("women", "womens", "ladies", "for women", "for her"),
    ("men", "mens", "for men", "for him"),
    ("kids", "childrens", "for kids", "for children"),
)
SEASONS = ("Summer", "Winter", "Mid-season", "All year")
SEASON_WORDS = (("summer", "hot weather", "light"), ("winter", "warm", "cold weather"), ("spring", "autumn"), ())
OCCASIONS = ("Everyday", "Office", "Party", "Sport", "Holiday", "Outdoor")
OCCASION_WORDS = (
    ("casual", "everyday"),
    ("office", "work", "smart"),
    ("party", "evening", "wedding guest"),
    ("sport", "gym", "training"),
    ("holiday", "beach", "vacation"),
    ("outdoor", "hiking"),
)
COLORS = (
    ("Black", "black"), ("Off white", "white"), ("Sky blue", "blue"), ("Navy blue", "blue"), ("Charcoal grey", "grey"),
    ("Pearl grey", "grey"), ("Sand beige", "beige"), ("Camel brown", "brown"), ("Chestnut brown", "brown"),
    ("Cherry red", "red"), ("Wine red", "red"), ("Blush pink", "pink"), ("Fuchsia pink", "pink"),
    ("Olive green", "green"), ("Mint green", "green"), ("Forest green", "green"), ("Mustard yellow", "yellow"),
    ("Lemon yellow", "yellow"), ("Rust orange", "orange"), ("Lilac purple", "purple"),
)  # fmt: skip
"""Colour names of the catalogue with the family people ask for."""
FAMILIES = tuple(dict.fromkeys(family for _, family in COLORS))
PATTERNS = ("Solid", "Striped", "Checked", "Floral", "Dotted", "Colour block")
BRANDS = (
    "Quillane", "Brenmoor", "Solvessa", "Tarnwick", "Ellowyn", "Marrowby", "Pellucia", "Hathersby", "Lunevar",
    "Corvenna", "Dapplewen", "Ostrelle",
)  # fmt: skip
SIZES = ("Regular", "Petite", "Tall", "Plus", "One size")
FITS = (
    "Relaxed", "Slim", "Cropped", "Oversized", "Classic", "Tailored", "Draped", "Layered", "Wrap", "Quilted",
    "Textured", "Soft",
)  # fmt: skip
MATERIALS = {
    "cloth": ("linen", "cotton", "jersey", "denim", "satin", "wool", "corduroy", "viscose", "fleece", "ribbed"),
    "shoe": ("leather", "suede", "canvas", "mesh", "knit", "vegan leather"),
    "metal": ("gold-tone", "silver-tone", "beaded", "pearl", "enamel"),
    "bag": ("canvas", "nylon", "leather", "recycled", "woven", "hard-shell"),
}


@dataclass(frozen=True)
class ProductType:
    """A kind of product: its name, other words for it, and who wears it when."""

    name: str
    synonyms: tuple[str, ...] = ()
    audiences: tuple[int, ...] = (0, 1, 2)
    seasons: tuple[float, ...] = (1.0, 1.0, 1.0, 2.0)
    occasions: tuple[int, ...] = (0,)
    material: str = "cloth"
    basic: bool = False
    weight: float = 1.0


SUMMER, WINTER, MID, ANY = (6.0, 0.0, 1.0, 1.0), (0.0, 6.0, 1.5, 1.0), (0.5, 0.5, 5.0, 1.0), (1.0, 1.0, 1.0, 3.0)
CATEGORIES: dict[str, tuple[float, tuple[ProductType, ...]]] = {
    "Clothing": (
        0.6,
        (
            ProductType("Shirt", ("button down",), (0, 1, 2), ANY, (0, 1)),
            ProductType("Blouse", ("top",), (0,), ANY, (0, 1, 2)),
            ProductType("T-shirt", ("tee", "t shirt", "tshirt"), (0, 1, 2), ANY, (0, 3), basic=True, weight=1.6),
            ProductType("Dress", ("gown",), (0, 2), (4.0, 1.0, 2.0, 1.0), (0, 1, 2, 4), weight=1.5),
            ProductType("Skirt", (), (0, 2), (3.0, 1.0, 2.0, 1.0), (0, 1, 2)),
            ProductType("Trousers", ("pants", "slacks"), (0, 1, 2), ANY, (0, 1), weight=1.3),
            ProductType("Jeans", ("denims",), (0, 1, 2), ANY, (0,), weight=1.2),
            ProductType("Shorts", (), (0, 1, 2), SUMMER, (0, 3, 4)),
            ProductType("Sweater", ("jumper", "pullover"), (0, 1, 2), WINTER, (0, 1), weight=1.2),
            ProductType("Cardigan", (), (0, 1, 2), MID, (0, 1)),
            ProductType("Hoodie", ("hooded sweatshirt",), (0, 1, 2), MID, (0, 3)),
            ProductType("Jacket", ("blazer",), (0, 1, 2), MID, (0, 1, 5)),
            ProductType("Coat", ("overcoat", "parka"), (0, 1, 2), WINTER, (0, 5)),
            ProductType("Leggings", ("tights",), (0, 2), ANY, (0, 3), basic=True),
            ProductType("Socks", ("ankle socks",), (0, 1, 2), ANY, (0, 3), basic=True),
            ProductType("Underwear", ("briefs",), (0, 1, 2), ANY, (0,), basic=True),
            ProductType("Swimsuit", ("bathing suit", "swimwear"), (0, 1, 2), SUMMER, (4,)),
        ),
    ),
    "Footwear": (
        0.22,
        (
            ProductType("Sneakers", ("trainers", "running shoes"), (0, 1, 2), ANY, (0, 3), "shoe", weight=2.0),
            ProductType("Boots", ("ankle boots",), (0, 1, 2), WINTER, (0, 5), "shoe", weight=1.3),
            ProductType("Sandals", ("open shoes",), (0, 1, 2), SUMMER, (0, 4), "shoe", weight=1.2),
            ProductType("Loafers", ("slip ons",), (0, 1), MID, (0, 1), "shoe"),
            ProductType("Pumps", ("high heels", "heels"), (0,), ANY, (1, 2), "shoe"),
            ProductType("Slippers", ("house shoes",), (0, 1, 2), WINTER, (0,), "shoe", basic=True),
            ProductType("Hiking shoes", ("trekking shoes",), (0, 1), ANY, (5,), "shoe", weight=0.7),
        ),
    ),
    "Accessories & Jewelry": (
        0.13,
        (
            ProductType("Scarf", ("shawl",), (0, 1, 2), WINTER, (0, 1)),
            ProductType("Hat", ("cap", "beanie"), (0, 1, 2), ANY, (0, 4)),
            ProductType("Belt", (), (0, 1), ANY, (0, 1), "shoe"),
            ProductType("Earrings", ("studs",), (0,), ANY, (0, 2), "metal", weight=1.3),
            ProductType("Necklace", ("pendant",), (0,), ANY, (0, 2), "metal"),
            ProductType("Bracelet", ("bangle",), (0, 1), ANY, (0, 2), "metal"),
            ProductType("Sunglasses", ("shades",), (0, 1, 2), SUMMER, (0, 4), "metal"),
            ProductType("Gloves", ("mittens",), (0, 1, 2), WINTER, (0, 5)),
            ProductType("Hair clips", ("hair accessories",), (0, 2), ANY, (0,), "metal", basic=True),
        ),
    ),
    "Luggage & Bags": (
        0.05,
        (
            ProductType("Handbag", ("purse",), (0,), ANY, (0, 1, 2), "bag", weight=1.3),
            ProductType("Backpack", ("rucksack",), (0, 1, 2), ANY, (0, 3, 5), "bag", weight=1.3),
            ProductType("Tote bag", ("shopper",), (0,), ANY, (0, 1, 4), "bag"),
            ProductType("Suitcase", ("trolley", "cabin luggage"), (0, 1), (2.0, 1.0, 1.0, 3.0), (4,), "bag"),
            ProductType("Wallet", ("card holder",), (0, 1), ANY, (0, 1), "bag"),
            ProductType("Sports bag", ("gym bag", "duffel"), (0, 1), ANY, (3,), "bag"),
        ),
    ),
}
"""Category: its share of the shop, and its product types."""
STOP_WORDS = frozenset({"for", "the", "with", "a", "and", "to", "in"})


def stem(word: str) -> str:
    """Return `word` in lower case without an English plural ending: what the shop's search compares."""
    word = word.lower()
    if word.endswith("es") and word[:-2].endswith(("ss", "sh", "ch", "x")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def search_words(text: str) -> list[str]:
    """Return the distinct stemmed words of a text, without stop words, in their order."""
    words = text.lower().replace("-", " ").split()
    return list(dict.fromkeys(stem(word) for word in words if word not in STOP_WORDS))

#!/usr/bin/env python3
"""Write the tokenizer goldens: tokenizer.json files and, for strings out of all
corners of Unicode, the ids that the reference library makes of them.

Needs the package `tokenizers`. The tests never run this file: they read
tokenizers.tar.zst beside it. To make that again, with an English text of about
4 MB (`tools/dev demo` leaves one in .demo/text.txt):

    python3 test/goldens/make_tokenizer_goldens.py --text .demo/text.txt

The archive holds, under tokenizers/:

    gpt2.json     GPT-2's pre-tokenizer, 4,000 merges written as "a b", one
                  special token
    llama3.json   Llama-3's pre-tokenizer and special tokens, 3,000 merges
                  written as ["a", "b"]; ignore_merges, with words in the
                  vocabulary that no merge makes; a template that puts
                  <|begin_of_text|> first
    added.json    GPT-2's with add_prefix_space, 500 merges, and added tokens
                  that overlap, strip blanks, or match whole words only
    mixed.json    every other step that is read: Digits, Split at a string and
                  at a pattern with line ends, words and look-behinds, what
                  matches dropped or alone kept; two merges with one result;
                  added tokens that take each other's blanks
    gpt2.jsonl, llama3.jsonl, added.jsonl, mixed.jsonl
                  a case per line: {"text": …, "ids": […]}, without what the
                  template adds; "decoded" where that is not the text; of the
                  first hundred also "special_ids", with what the template adds

The same file compares any tokenizer.json with the reference library, on the
same strings:

    make_tokenizer_goldens.py --compare FILE --lmrun build/bin/lmrun
"""

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import unicodedata

import tokenizers
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models,
                        pre_tokenizers, processors, trainers)

HERE = os.path.dirname(os.path.abspath(__file__))
NUM_STRINGS = 10_000
LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
LLAMA3_SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>",
                  "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]

# Other scripts than the English text's, so that merges cross their bytes.
OTHER_TEXT = """
Alle Menschen sind frei und gleich an Würde und Rechten geboren.
Tous les êtres humains naissent libres et égaux en dignité et en droits.
Todos los seres humanos nacen libres e iguales en dignidad y derechos.
Все люди рождаются свободными и равными в своем достоинстве и правах.
Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια.
يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.
כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם.
सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है।
人人生而自由,在尊严和权利上一律平等。
すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。
모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.
มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ
Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền.
for (int i = 0; i < 1024; ++i) {\n    sum += a[i] * b[i]; // 3.14159e-10\n}
def f(x):\n\treturn [y ** 2 for y in x if y != 0]\n\n
😀 👍🏽 👩‍👩‍👧‍👦 🇩🇪 ❤️ 1️⃣ don't we'll they've I'm he'd it's you're
"""

WHITESPACE = [chr(c) for c in (
    *range(0x09, 0x0E), 0x1C, 0x1D, 0x1E, 0x1F, 0x20, 0x85, 0xA0, 0x1680,
    *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000,
    # not white space, though they look like it
    0x180E, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF)]
CONTROLS = [chr(c) for c in (*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x061C,
                             0x200E, 0x200F, *range(0x202A, 0x202F),
                             *range(0x2066, 0x206A), 0xE0001, 0xE0020)]
EDGES = [chr(c) for c in (
    0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xF8FF, 0xFDD0, 0xFFFC, 0xFFFD,
    0xFFFE, 0xFFFF, 0x10000, 0x1F600, 0x1FFFF, 0x20000, 0x2FFFF, 0x30000,
    0xE01EF, 0xF0000, 0xFFFFD, 0x100000, 0x10FFFD, 0x10FFFF)]
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'T", "'RE",
                "'Ve", "'M", "'lL", "'D", "'\u017f", "\u2019s", "''s", "' s",
                "'r", "'l", "'x", "'st", "'dre"]
EMOJI = ["👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "👩🏿‍🚀", "🇩🇪", "🇺🇸🇫🇷", "1️⃣", "#️⃣", "❤️", "❤", "☃︎", "🏴󠁧󠁢󠁳󠁣󠁴󠁿",
         "😀", "🫠", "👨‍❤️‍💋‍👨", "🧑🏻‍🤝‍🧑🏾"]
PIECES = ["<|endoftext|>", "<|begin_of_text|>", "<|eot_id|>", "<|endoftext|",
          "<|endof", "|>", "<|", "<a>", "<a><b>", "<b>", "<mask>", "word",
          "words", "  ", "    ", "<|start_header_id|>user<|end_header_id|>\n\n"]
# What a user's tool puts in: source code, markup, addresses, numbers.
PLAIN = ["https://example.org/a?b=c&d=%20#e", "user@example.org", "1,234.56",
         "0x1F", "2024-02-29T12:00:00Z", "C:\\Users\\x", "a\tb\r\nc", "{\"k\": [1, 2]}",
         "<p class=\"x\">", "x = y ** 2  # note", "if (a && !b) { ++c; }\n",
         "e\u0301", "\u00e9", "ﬁ", "Å", "\u212b", "ǅ", "ß", "İ", "ı", "ſ", "K",
         "…", "—", "“q”", "½", "Ⅷ", "²", "①", "٣", "१२३", "𝟘𝟙", "㉈", "零一"]


def by_category():
    """Every assigned character, by its general category. Python 3.11 knows
    Unicode 14, as PCRE2 10.42 does: a letter of a later version is a letter
    only for a newer library, and no golden depends on one."""
    assert unicodedata.unidata_version.split(".")[0] == "14", \
        "run with a Python whose tables are Unicode 14 (3.11)"
    table = {}
    for code in range(0x110000):
        if not 0xD800 <= code < 0xE000:
            category = unicodedata.category(chr(code))
            if category != "Cn":
                table.setdefault(category, []).append(chr(code))
    return table


def make_strings(text, rng):
    table = by_category()
    blocks = {}
    for characters in table.values():
        for c in characters:
            if unicodedata.category(c)[0] in "LMN":
                blocks.setdefault(ord(c) >> 8, []).append(c)
    blocks = [b for _, b in sorted(blocks.items()) if len(b) > 20]

    def english():
        start = rng.randrange(len(text) - 80)
        return text[start:start + rng.randint(1, 60)]

    def script():
        block = rng.choice(blocks)
        return "".join(rng.choice(block) if rng.random() < 0.8 else
                       rng.choice([" ", "\u200d", "'", "1"] + table["Mn"][:200])
                       for _ in range(rng.randint(1, 12)))

    def combining():
        base = rng.choice(["a", "e", "o", "क", "ا", "가", "1", " ", ""])
        return base + "".join(rng.choice(table["Mn"] + table["Me"] + table["Mc"])
                              for _ in range(rng.randint(1, 4)))

    def blanks():
        return "".join(rng.choice(WHITESPACE if rng.random() < 0.5 else " \n\t\r")
                       for _ in range(rng.randint(1, 6)))

    def digits():
        return "".join(rng.choice(table[rng.choice(["Nd", "Nd", "Nl", "No"])])
                       for _ in range(rng.randint(1, 7)))

    def number():
        return "".join(rng.choice("0123456789") for _ in range(rng.randint(1, 9)))

    def punctuation():
        return "".join(rng.choice(table[rng.choice(
            ["Pc", "Pd", "Ps", "Pe", "Po", "Sm", "Sc", "Sk", "So"])])
            for _ in range(rng.randint(1, 4)))

    def any_character():
        return rng.choice(table[rng.choice(sorted(table))])

    kinds = [(english, 5), (script, 5), (combining, 2), (blanks, 5),
             (digits, 2), (number, 2), (punctuation, 3), (any_character, 2),
             (lambda: rng.choice(CONTROLS), 1), (lambda: rng.choice(EDGES), 1),
             (lambda: rng.choice(EMOJI), 2), (lambda: rng.choice(PIECES), 2),
             (lambda: rng.choice(PLAIN), 2),
             (lambda: rng.choice(["I", "don", "x", "É", "中", "1", " "]) +
              rng.choice(CONTRACTIONS), 2),
             (lambda: rng.choice(["\r\n", "\n\n", "\r", " \r\n ", "\n \n"]), 2)]
    makers, weights = zip(*kinds)

    # First each special character alone and between neighbours.
    strings = [""]
    for c in dict.fromkeys(WHITESPACE + CONTROLS + EDGES):
        strings += [c, f"a{c}b {c} 1{c}{c}2\n{c}"]
    for piece in EMOJI + PIECES + PLAIN + CONTRACTIONS:
        strings += [piece, f" {piece}{piece} x{piece}"]
    # Long runs: the merge loop and the regular expression at their worst.
    for unit in ["a", "ab", " ", "\n", "1", "é", "中", "😀", "\u0301", "'s", "!",
                 " \n", "\r\n", "aB1 ", "<a>", "\t", "क्ष", "\u3000"]:
        for count in (2, 3, 4, 7, 8, 63, 400):
            strings.append(unit * count)
            strings.append("x" + unit * count + "y")
    # Then a walk over the assigned characters, one of every 12, in a place
    # where its class (letter, digit, blank or neither) decides the cut. Hangul
    # syllables and Han are each one class for thousands.
    walked = [c for cs in table.values() for c in cs
              if ord(c) < 0x17000 and not 0xAC00 <= ord(c) < 0xD7A4
              and not 0x3400 <= ord(c) < 0xA000 and not 0xE000 <= ord(c) < 0xF900]
    for c in sorted(walked)[::12]:
        strings.append(f"a{c}1 {c}!{c}\n")
    strings = dict.fromkeys(strings)
    while len(strings) < NUM_STRINGS:
        count = rng.randint(1, 5)
        strings["".join(rng.choices(makers, weights)[0]()
                        for _ in range(count))] = None
    for s in strings:
        s.encode("utf-8")  # a lone surrogate would raise here
    return list(strings)


def train(pre_tokenizer, merges, specials, text, ignore_merges=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=256 + len(specials) + merges, min_frequency=2,
        special_tokens=specials, initial_alphabet=alphabet,
        show_progress=False)
    lines = text.splitlines(keepends=True)[::8]
    tokenizer.train_from_iterator(lines + [OTHER_TEXT] * 40, trainer)
    return json.loads(tokenizer.to_str())


def gpt2(text):
    data = train(pre_tokenizers.ByteLevel(add_prefix_space=False), 4000,
                 ["<|endoftext|>"], text)
    data["model"]["merges"] = [
        m if isinstance(m, str) else " ".join(m) for m in data["model"]["merges"]]
    return data


def llama3(text):
    data = train(pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3_PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]), 3000, LLAMA3_SPECIAL, text, ignore_merges=True)
    # Some words stay in the vocabulary while their last merge goes: only
    # ignore_merges finds them.
    merges = [m if isinstance(m, list) else m.split(" ")
              for m in data["model"]["merges"]]
    parts = {part for m in merges for part in m}
    leaves = [m for m in merges if "".join(m) not in parts]
    for merge in leaves[::7]:
        merges.remove(merge)
    data["model"]["merges"] = merges
    # As Llama-3 has them, the special tokens come last.
    specials = {t["content"] for t in data["added_tokens"]}
    words = [w for w, _ in sorted(data["model"]["vocab"].items(),
                                  key=lambda item: item[1]) if w not in specials]
    data["model"]["vocab"] = {w: i for i, w in enumerate(words)}
    for i, token in enumerate(data["added_tokens"]):
        token["id"] = len(words) + i
    tokenizer = Tokenizer.from_str(json.dumps(data))
    bos = LLAMA3_SPECIAL[0]
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1",
            special_tokens=[(bos, tokenizer.token_to_id(bos))]),
    ])
    return json.loads(tokenizer.to_str())


def added(text):
    data = train(pre_tokenizers.ByteLevel(add_prefix_space=True), 500,
                 ["<|endoftext|>"], text)
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.add_special_tokens([
        AddedToken("<mask>", lstrip=True, special=True),
        AddedToken("<b>", rstrip=True, special=True)])
    tokenizer.add_tokens([
        AddedToken("<a>"), AddedToken("<a><b>"),
        AddedToken("word", single_word=True),
        AddedToken("    ", normalized=False), AddedToken("  ")])
    return json.loads(tokenizer.to_str())


def mixed(text):
    """Steps that no model has all together. The alphabet is the text's own, so
    that some bytes have no token."""
    pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split("<|", "removed"),
        pre_tokenizers.Split(Regex(r"(?<=\w)\W(?=\w)|^\s|\S$|[\w\d]{2,3}"),
                             "isolated"),
        pre_tokenizers.Split(Regex(r"(?i)\w+[^\w\s]*$|^\W|(?<!a)b|\d+(?=x)|.\n"),
                             "isolated"),
        pre_tokenizers.Split(Regex(r"x*"), "isolated"),
        pre_tokenizers.Split(Regex(r"[^\x{300}-\x{36f}\t]+"), "removed",
                             invert=True),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)])
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False)
    tokenizer.train_from_iterator([text[:200_000]], trainer)
    data = json.loads(tokenizer.to_str())
    model = data["model"]
    # "the" by either way: a pair that was queued for the one merge is taken
    # for the other.
    for token in ("he", "th", "the"):
        model["vocab"].setdefault(token, len(model["vocab"]))
    model["merges"] = [["t", "h"]] + [m for m in model["merges"]] + [
        ["h", "e"], ["t", "he"], ["th", "e"]]
    tokenizer = Tokenizer.from_str(json.dumps(data))
    # One takes blanks that the next begins with, or is.
    tokenizer.add_tokens([
        AddedToken("  ", rstrip=True, normalized=False),
        AddedToken(" \n", normalized=False),
        AddedToken("中", lstrip=True, single_word=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="!:0 $A:0 a:0", special_tokens=[
            (t, tokenizer.token_to_id(t)) for t in "!a"])
    return json.loads(tokenizer.to_str())


def expected(tokenizer, strings):
    for s in strings:
        yield s, tokenizer.encode(s, add_special_tokens=False).ids


def case(tokenizer, number, text, ids):
    fields = {"text": text, "ids": ids}
    decoded = tokenizer.decode(ids, skip_special_tokens=False)
    if decoded != text:
        fields["decoded"] = decoded
    if number < 100:
        fields["special_ids"] = tokenizer.encode(text).ids
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")) + "\n"


def make(text):
    rng = random.Random(20240520)
    strings = make_strings(text, rng)
    chosen = {"gpt2": strings, "llama3": strings,
              "added": strings[:1200] + strings[-800:],
              "mixed": strings[:1200] + strings[-800:]}
    files = {}
    for name, maker in (("gpt2", gpt2), ("llama3", llama3), ("added", added),
                        ("mixed", mixed)):
        data = maker(text)
        tokenizer = Tokenizer.from_str(json.dumps(data))
        cases = list(expected(tokenizer, chosen[name]))
        files[f"{name}.json"] = json.dumps(data, ensure_ascii=False)
        files[f"{name}.jsonl"] = "".join(
            case(tokenizer, i, s, ids) for i, (s, ids) in enumerate(cases))
        lost = sum(tokenizer.decode(ids, skip_special_tokens=False) != s
                   for s, ids in cases)
        print(f"{name}: {len(data['model']['vocab'])} tokens, "
              f"{len(data['model']['merges'])} merges, {len(cases)} strings, "
              f"{sum(len(ids) for _, ids in cases)} ids, "
              f"{lost} strings that decoding does not give back")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as t:
        for file, content in files.items():
            content = content.encode()
            info = tarfile.TarInfo(f"tokenizers/{file}")
            info.size = len(content)
            info.mode = 0o644
            t.addfile(info, io.BytesIO(content))
    path = os.path.join(HERE, "tokenizers.tar.zst")
    with open(path, "wb") as out:
        subprocess.run(["zstd", "--ultra", "-22", "-q", "-c"],
                       input=buffer.getvalue(), stdout=out, check=True)
    print(f"tokenizers.tar.zst: {os.path.getsize(path)} bytes, made with "
          f"tokenizers {tokenizers.__version__}")


def compare(path, lmrun, text):
    """Any tokenizer.json: lmrun against the reference library."""
    strings = make_strings(text, random.Random(20240520))
    reference = Tokenizer.from_file(path)
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as f:
        for s in strings:
            f.write(json.dumps({"text": s}, ensure_ascii=False) + "\n")
        f.flush()
        ran = subprocess.run(
            [lmrun, "tokenize", "--tokenizer", path, "--input", f.name,
             "--print-ids"], capture_output=True)
    if ran.returncode:
        sys.exit(f"error: lmrun tokenize ended with {ran.returncode}: "
                 f"{ran.stderr.decode()}")
    lines = ran.stdout.decode().split("\n")
    wrong = 0
    for i, (s, ids) in enumerate(expected(reference, strings)):
        got = [int(x) for x in lines[i].split()] if i < len(lines) else None
        if got != ids:
            wrong += 1
            if wrong <= 10:
                print(f"FAIL: {s!r}: expected {ids}, is {got}")
    print(f"{len(strings) - wrong} of {len(strings)} strings alike, against "
          f"tokenizers {tokenizers.__version__}")
    return 1 if wrong else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", help="an English text to train on and cut from")
    parser.add_argument("--compare", metavar="FILE", help="a tokenizer.json")
    parser.add_argument("--lmrun", help="the lmrun to compare")
    arguments = parser.parse_args()
    text = OTHER_TEXT * 4
    if arguments.text:
        with open(arguments.text, encoding="utf-8") as f:
            text = f.read()
    if arguments.compare:
        return compare(arguments.compare, arguments.lmrun, text)
    if not arguments.text:
        parser.error("--text is needed to train on")
    make(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

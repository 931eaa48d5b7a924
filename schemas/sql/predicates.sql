-- Functions that predicates of `clipsieve filter` may call beside DuckDB's own.
-- They work in DuckDB 1.5 and 2.0.

-- Words of a text as Python's str.split() counts them: runs without Unicode white space.
CREATE OR REPLACE MACRO word_count(text) AS
  len(regexp_extract_all(text,
    '[^\x09-\x0d\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]+'));

-- Share of a text's characters that are letters of any script; NULL for an empty text.
CREATE OR REPLACE MACRO letter_share(text) AS
  length(regexp_replace(text, '[^\pL]', '', 'g')) / nullif(length(text), 0);

-- Tokens of a text as fastText's tokenize() counts them: runs without its six white space
-- characters, and every line break one of its own.
CREATE OR REPLACE MACRO fasttext_token_count(text) AS
  len(regexp_extract_all(text, '\n|[^ \t\n\x0b\x0c\r\x{0}]+'));

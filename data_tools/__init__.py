"""FROM WHAT it learns: sources -> parallel shards; translation; quality; verification.

The command line's verbs, each a function that returns plain data and prints nothing but progress on standard error:
    data_tools.build.build(name, out=None, lang="eu", overrides=None) -> {"path", "state", "manifest", "seconds"}
        state: "built" or "unchanged" (complete already: nothing was done)
    data_tools.check.check(path, mark=False, processes=0) -> [{"level", "problem", "file", "sample", "detail"}, ...]
        level: "error" or "note"; no error means sound
    data_tools.show.show(path, tokenizer=None, sheet=None, images=96) -> {"name", "languages", "subsets": [...], ...}
All raise core.errors.UserError for what their user can mend.
"""

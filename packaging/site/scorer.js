// How search results are sorted: a page whose title has the words comes first, what few look for comes last.
var Scorer = {
    score: ([page, title, anchor, description, score]) => {
        const words = (new URLSearchParams(location.search).get("q") || "").toLowerCase().match(/[\w-]+/g) || [];
        const own = title.toLowerCase().match(/[\w-]+/g) || [];
        const named = words.filter((word) => own.some((each) => each.startsWith(word.slice(0, 5)))).length;
        const isVariable = /^"?[A-Z][A-Z0-9]*_[A-Z0-9_]+"?$/.test(new URLSearchParams(location.search).get("q") || "");
        const isListed = isVariable && page === "reference/files" ? 20 : 0;
        const forContributors = /^project\/|decisions\/|works\/(architecture|fleet|native|performance)/.test(page);
        const forUsers = /^(start|how-to)\//.test(page);
        return score + isListed + 20 * named + (forUsers ? 1 : 0) - (forContributors ? 10 : 0);
    },
    objNameMatch: 11,
    objPartialMatch: 6,
    objPrio: { 0: 15, 1: 5, 2: -5 },
    objPrioDefault: 0,
    title: 15,
    partialTitle: 7,
    term: 5,
    partialTerm: 2,
};

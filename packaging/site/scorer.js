// How search results are sorted: a page whose title or heading has the words comes first, what few look for comes last.
const wordsIn = (text) => text.toLowerCase().match(/[\w-]+/g) || [];
const countIn = (words, text) => {
    const own = wordsIn(text).flatMap((word) => [word, ...word.split(/[_-]/)]);
    // Five letters find renewal for renew. A word such as HWSIGNER_PIN must be there as a whole.
    const starts = words.map((word) => (/[_-]/.test(word) ? word : word.slice(0, 5)));
    return starts.filter((start) => own.some((each) => each.startsWith(start))).length;
};
// Of each page, the number of words that the best of its headings has.
const inHeadings = (words) => {
    const best = {};
    for (const [heading, places] of Object.entries(Search._index.alltitles)) {
        const count = countIn(words, heading);
        for (const [document] of places) best[document] = Math.max(best[document] || 0, count);
    }
    return best;
};
let headings;
var Scorer = {
    score: ([page, title, anchor, description, score]) => {
        const query = new URLSearchParams(location.search).get("q") || "";
        const words = wordsIn(query);
        headings ??= inHeadings(words);
        const isVariable = /^"?[A-Z][A-Z0-9]*_[A-Z0-9_]+"?$/.test(query);
        const isListed = isVariable && page === "reference/files" ? 20 : 0;
        const forContributors = /^project\/|decisions\/|works\/(architecture|fleet|native|performance)/.test(page);
        const inHeading = forContributors ? 0 : headings[Search._index.docnames.indexOf(page)] || 0;
        const forUsers = /^(start|how-to)\/|^reference\/errors$/.test(page);
        const isBackground = /^how-it-works\//.test(page);
        // A name of the Python API is written with a capital, a dot or an underscore.
        const isApi = /^reference\/hwsigner/.test(page) && !/[A-Z._]/.test(query);
        return (
            score + isListed + (isApi ? 0 : 20 * countIn(words, title)) + 8 * inHeading +
            (forUsers ? 1 : 0) - (isBackground ? 3 : 0) - (forContributors ? 25 : 0) - (isApi ? 15 : 0)
        );
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

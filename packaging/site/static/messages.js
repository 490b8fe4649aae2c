"use strict";

// The page of all error messages: shows those that have most of the words in a field.
// The search page: leads to it with what was searched for.

function wordsOf(text) {
    return new Set(text.toLowerCase().match(/[a-z0-9_-]{2,}/g) || []);
}

// How much of an entry's words a message has, from 0 to 1. Words in capitals stand for something else.
function similarity(entry, words) {
    const own = [...wordsOf(entry.textContent.replace(/\b[A-Z_]{3,}\b/g, ""))];
    const common = own.filter((word) => words.has(word)).length;
    return own.length ? (common * common) / (own.length * Math.min(words.size, own.length)) : 0;
}

function show(entries, text) {
    const words = wordsOf(text);
    const scores = entries.map((entry) => similarity(entry, words));
    const least = Math.max(0.2, Math.max(...scores) * 0.7);
    let count = 0;
    entries.forEach((entry, index) => {
        const shown = !words.size || scores[index] >= least;
        count += shown;
        entry.hidden = entry.nextElementSibling.hidden = !shown;
    });
    document.querySelectorAll("article dl").forEach((list) => (list.hidden = !list.querySelector("dt:not([hidden])")));
    document.querySelectorAll("article section section, article section section > p").forEach((part) => {
        const section = part.closest("section");
        part.hidden = words.size && !section.querySelector("dt:not([hidden])");
    });
    return words.size ? (count === 1 ? "1 message" : `${count} messages`) : "";
}

function addField(place) {
    const entries = [...document.querySelectorAll("article dt")];
    const field = document.createElement("input");
    const count = document.createElement("output");
    Object.assign(field, { type: "search", placeholder: "Paste an error message", ariaLabel: "Error message" });
    place.append(field, count);
    field.addEventListener("input", () => (count.textContent = show(entries, field.value)));
    field.value = new URLSearchParams(location.search).get("message") || "";
    field.dispatchEvent(new Event("input"));
}

function leadToMessages(query) {
    const line = document.createElement("p");
    line.id = "lead-to-messages";
    const link = document.createElement("a");
    link.href = `reference/messages.html?message=${encodeURIComponent(query)}`;
    link.textContent = "Find it among all error messages";
    line.append("Is this an error message? ", link);
    document.getElementById("search-results").before(line);
}

document.addEventListener("DOMContentLoaded", () => {
    const place = document.getElementById("find-message");
    const query = new URLSearchParams(location.search).get("q");
    if (place) {
        addField(place);
    } else if (query && document.getElementById("search-results")) {
        leadToMessages(query);
    }
});

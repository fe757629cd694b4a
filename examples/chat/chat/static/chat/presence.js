// Who is here, put together from the frames "here", "joined" and "left". They may overtake each other, so each carries
// the version of the list that it made, and only news newer than what is known of a person counts.

export class Presence {
  #people = new Map(); // name -> {guest, present, version}
  #version = 0; // of the last list

  // Take over a whole list.
  here({ people, version }) {
    const newer = [...this.#people].filter(([, known]) => known.version > version);
    this.#people = new Map(people.map(({ user, guest }) => [user, { guest, present: true, version }]));
    for (const [user, known] of newer) this.#people.set(user, known);
    this.#version = version;
  }

  // Take in "joined" or "left"; false means it is old news.
  change({ type, user, guest, version }) {
    if (version <= (this.#people.get(user)?.version ?? this.#version)) return false;
    this.#people.set(user, { guest, present: type === "joined", version });
    return true;
  }

  // Forget everything: the server may have started anew.
  clear() {
    this.#people.clear();
    this.#version = 0;
  }

  list() {
    return [...this.#people]
      .filter(([, known]) => known.present)
      .map(([user, { guest }]) => ({ user, guest }))
      .sort((one, other) => one.user.localeCompare(other.user));
  }
}

/** `[cms-allow]`: which signer may send which types. */
import { ALLOWED_REMEMBERED } from "../limits.ts";
import { glob, type Matcher } from "../toolkit/globs.ts";

/** One line: who, and what. */
export interface AllowRule {
  /** As it stands there: a fingerprint, `ATTRIBUTE/GLOB` of a subject, or a glob for the common name. In lower case. */
  readonly signer: string;
  /** Globs. */
  readonly types: readonly string[];
}

/** What a rule is compared with. */
export interface Subject {
  readonly commonName: string;
  readonly fingerprint: string;
  /** Short names of the subject's attributes, and their values. */
  readonly attributes: readonly (readonly [string, string])[];
}

const FINGERPRINT = /^[0-9a-f]{64}$/;
const ATTRIBUTE = /^([a-z.0-9]+)\/(.*)$/;

export class AllowTable {
  readonly #rules: readonly {
    readonly fits: (subject: Subject) => boolean;
    readonly types: readonly Matcher[];
  }[];
  /** What was found before, by fingerprint and type. */
  readonly #found = new Map<string, boolean>();

  constructor(rules: readonly AllowRule[]) {
    this.#rules = rules.map(({ signer, types }) => ({
      fits: subjectMatcher(signer),
      types: types.map(glob),
    }));
  }

  allows(subject: Subject, type: string): boolean {
    const key = `${subject.fingerprint} ${type}`;
    let found = this.#found.get(key);
    if (found === undefined) {
      found = this.#rules.some(({ fits, types }) => types.some((matches) => matches(type)) && fits(subject));
      if (this.#found.size >= ALLOWED_REMEMBERED) this.#found.clear();
      this.#found.set(key, found);
    }
    return found;
  }
}

/** Which of these rules lets whom send what: for people. */
export function rulesFor(rules: readonly AllowRule[], subject: Subject, type: string): readonly AllowRule[] {
  return rules.filter(({ signer, types }) =>
    subjectMatcher(signer)(subject) && types.some((t) => glob(t)(type))
  );
}

function subjectMatcher(signer: string): (subject: Subject) => boolean {
  if (FINGERPRINT.test(signer)) return ({ fingerprint }) => fingerprint === signer;
  const [, attribute, pattern] = ATTRIBUTE.exec(signer) ?? [];
  const matches = glob(pattern ?? signer);
  if (attribute === undefined) return ({ commonName }) => matches(commonName.toLowerCase());
  return ({ attributes }) =>
    attributes.some(([name, value]) => name.toLowerCase() === attribute && matches(value.toLowerCase()));
}

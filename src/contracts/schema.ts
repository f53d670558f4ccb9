/** How a value from outside is checked. */

/**
 * The part of Standard Schema (standardschema.dev) that is used: schemas of valibot, zod and arktype have it, and one of
 * one's own needs no more.
 */
export interface Schema<T> {
  /** See the specification. */
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    /** Asynchronous validation is not supported: a promise is an error. */
    readonly validate: (value: unknown) => SchemaResult<T> | Promise<SchemaResult<T>>;
    readonly types?: { readonly input: unknown; readonly output: T } | undefined;
  };
}

/** What a validation gives: a value, or what is wrong. */
export type SchemaResult<T> =
  | { readonly value: T; readonly issues?: undefined }
  | { readonly issues: readonly SchemaIssue[] };

/** One thing that is wrong. */
export interface SchemaIssue {
  /** For people. */
  readonly message: string;
  /** Where: keys from the outermost on. */
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
}

/** One option of the ini file: how its text is read, what it is when it is missing, and what it does. */
export interface Option<T> {
  /** How the text is read. */
  readonly schema: Schema<T>;
  /** As it would stand in the file; null where it may be missing, undefined where it is required. */
  readonly default: string | null | undefined;
  /** Such as `s`. */
  readonly unit?: string;
  /** For the configuration reference. */
  readonly doc: string;
  /** A value that makes sense, other than the default. */
  readonly example: string;
}

/** A table of options. */
// deno-lint-ignore no-explicit-any -- each option has a type of its own, which Values gives back
export type Options = Readonly<Record<string, Option<any>>>;

/** The values that a table of options gives. */
export type Values<O extends Options> = {
  readonly [K in keyof O]: O[K] extends Option<infer T> ? T : never;
};

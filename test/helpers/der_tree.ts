/** DER as a tree that may be changed at random, and into what is no DER any more. */
import { oidKey } from "../../src/seal/cms/der.ts";
import { encodeDer, type Node, parseDer } from "./pki.ts";

/** A node; one with `raw` stands there as those bytes. */
export interface Tree {
  tag: number;
  children?: Tree[];
  bytes?: Uint8Array;
  raw?: Uint8Array;
}

export const parsed = (bytes: Uint8Array): Tree => parseDer(bytes).node;

export function encoded(tree: Tree): Uint8Array {
  if (tree.raw !== undefined) return tree.raw;
  if (tree.children === undefined) return encodeDer(tree as Node);
  return encodeDer({ tag: tree.tag, bytes: joined(tree.children.map(encoded)) });
}

export function joined(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** All of them, each with its parent. */
export function nodesOf(root: Tree): { node: Tree; parent: Tree | null }[] {
  const found: { node: Tree; parent: Tree | null }[] = [{ node: root, parent: null }];
  for (let i = 0; i < found.length; i++) {
    for (const child of found[i].node.children ?? []) found.push({ node: child, parent: found[i].node });
  }
  return found;
}

/** Makes a node another one, in place. */
export function become(node: Tree, other: Tree): void {
  delete node.children;
  delete node.bytes;
  delete node.raw;
  Object.assign(node, structuredClone(other));
}

export const seq = (...children: Tree[]): Tree => ({ tag: 0x30, children });
export const set = (...children: Tree[]): Tree => ({ tag: 0x31, children });
export const value = (tag: number, ...bytes: number[]): Tree => ({ tag, bytes: Uint8Array.from(bytes) });
export const octetString = (bytes: Uint8Array): Tree => ({ tag: 4, bytes });
export const oidOf = (dotted: string): Tree => ({
  tag: 6,
  bytes: Uint8Array.from(oidKey(dotted), (char) => char.charCodeAt(0)),
});
export const textOf = (tag: number, text: string): Tree => ({ tag, bytes: new TextEncoder().encode(text) });

/**
 * The names of the simulated disk: folders, and what was done to their names since they were synced.
 *
 * An operation (make, link, rename, remove) is atomic within itself, and the operations on one name reach the medium in
 * their order, because a folder holds one thing under a name. Apart from that, a power cut leaves any subset.
 */
import type { Random } from './random.js';
import type { SimulatedFile } from './simulated-disk-file.js';

export type Node = SimulatedFile | SimulatedFolder;
type Change = { readonly folder: SimulatedFolder; readonly name: string; readonly node: Node | undefined };

class NameOperation {
  readonly changes: readonly Change[];
  /** Earlier operations on the same names that are not on the medium either. */
  readonly after: readonly NameOperation[];
  isDurable = false;

  constructor(changes: readonly Change[]) {
    this.changes = changes;
    this.after = changes.flatMap(({ folder, name }) => folder.lastUnsyncedOf(name) ?? []);
  }

  /** What is on the medium is there with all that came before it. */
  makeDurable(): void {
    if (this.isDurable) return;
    this.isDurable = true;
    for (const operation of this.after) operation.makeDurable();
  }
}

export class SimulatedFolder {
  readonly kind = 'folder';
  readonly inode: number;
  /** As every process sees it. */
  entries = new Map<string, Node>();
  /** As the medium has it, without the operations that follow. */
  synced = new Map<string, Node>();
  operations: NameOperation[] = [];
  readonly #last = new Map<string, NameOperation>();

  constructor(inode: number) {
    this.inode = inode;
  }

  lastUnsyncedOf(name: string): NameOperation | undefined {
    return this.#last.get(name);
  }

  note(name: string, operation: NameOperation): void {
    if (this.operations.at(-1) !== operation) this.operations.push(operation);
    this.#last.set(name, operation);
  }

  settle(entries: ReadonlyMap<string, Node>): void {
    this.synced = new Map(entries);
    this.operations = [];
    this.#last.clear();
  }
}

/** Does the changes as one operation. */
export const changeNames = (changes: readonly Change[]): void => {
  const operation = new NameOperation(changes);
  for (const { folder, name, node } of changes) {
    if (node === undefined) folder.entries.delete(name);
    else folder.entries.set(name, node);
    folder.note(name, operation);
  }
};

export const syncNames = (folder: SimulatedFolder): void => {
  for (const operation of folder.operations) operation.makeDurable();
  folder.settle(folder.entries);
};

/**
 * The power is cut: every folder below `root`, as it is or as it may come back, gets a legal remainder. An operation across two folders
 * is in both or in none.
 */
export const cutNames = (root: SimulatedFolder, random: Random): void => {
  const fates = new Map<NameOperation, boolean>();
  const happened = (operation: NameOperation): boolean => {
    const known = fates.get(operation);
    if (known !== undefined) return known;
    const isThere = operation.isDurable || (operation.after.every(happened) && random.chance(0.5));
    fates.set(operation, isThere);
    return isThere;
  };
  const visited = new Set<SimulatedFolder>();
  const cut = (folder: SimulatedFolder): void => {
    if (visited.has(folder)) return;
    visited.add(folder);
    const entries = new Map(folder.synced);
    for (const operation of folder.operations) {
      if (!happened(operation)) continue;
      for (const { folder: changed, name, node } of operation.changes) {
        if (changed !== folder) continue;
        if (node === undefined) entries.delete(name);
        else entries.set(name, node);
      }
    }
    folder.entries = entries;
    folder.settle(entries);
    for (const node of entries.values()) if (node.kind === 'folder') cut(node);
  };
  cut(root);
};

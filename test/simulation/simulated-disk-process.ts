/** One process that uses a simulated disk, and the files it has open. */
import { PAGE_BYTES, type FileExtent, type SimulatedFile } from './simulated-disk-file.js';
import { changeNames, syncNames, type Node } from './simulated-disk-names.js';
import type { SimulatedDisk } from './simulated-disk.js';

export type DiskCall = 'read' | 'write' | 'sync' | 'syncFolder' | 'name';

/** `code` is an errno name as node:fs has it, or `EKILLED`: the process that called is dead. */
export class DiskError extends Error {
  readonly code: string;

  constructor(code: string, path: string) {
    super(`${code}: ${path}`);
    this.code = code;
  }
}

export type DiskStat = {
  readonly kind: 'file' | 'folder';
  readonly inode: number;
  readonly byteLength: number;
  readonly allocatedBytes: number;
  readonly modifiedAtMs: number;
  readonly links: number;
};

/** One process: what it has open and locked ends with it. Paths are absolute. Every call throws DiskError. */
export class SimulatedProcess {
  readonly disk: SimulatedDisk;
  readonly #onEnd: () => void;
  readonly #handles = new Set<SimulatedHandle>();
  readonly #locks = new Set<SimulatedFile>();
  #isDead = false;

  constructor(disk: SimulatedDisk, onEnd: () => void) {
    this.disk = disk;
    this.#onEnd = onEnd;
  }

  get isDead(): boolean {
    return this.#isDead;
  }

  /** kill -9 of this process. */
  kill(): void {
    if (this.#isDead) return;
    for (const handle of this.#handles) handle.letGo();
    for (const file of this.#locks) file.lockedBy = undefined;
    this.#isDead = true;
    this.#onEnd();
  }

  /** `exclusive` makes the file and fails with EEXIST when the name is taken; `create` makes it when it is missing. */
  open(path: string, options: { readonly create?: boolean; readonly exclusive?: boolean } = {}): SimulatedHandle {
    this.check('name', path);
    const { folder, name } = this.disk.placeOf(path);
    let file = folder.entries.get(name);
    if (options.exclusive === true && file !== undefined) throw new DiskError('EEXIST', path);
    if (file === undefined && options.exclusive !== true && options.create !== true)
      throw new DiskError('ENOENT', path);
    if (file === undefined) {
      file = this.disk.newFile();
      file.links = 1;
      changeNames([{ folder, name, node: file }]);
    }
    if (file.kind === 'folder') throw new DiskError('EISDIR', path);
    file.opens += 1;
    const handle: SimulatedHandle = new SimulatedHandle(this, file, path, () => this.#handles.delete(handle));
    this.#handles.add(handle);
    return handle;
  }

  link(from: string, to: string): void {
    this.check('name', to);
    const file = this.disk.fileAt(from);
    const { folder, name } = this.disk.placeOf(to);
    if (folder.entries.has(name)) throw new DiskError('EEXIST', to);
    file.links += 1;
    changeNames([{ folder, name, node: file }]);
  }

  /** Replaces a file or an empty folder at `to`. */
  rename(from: string, to: string): void {
    this.check('name', to);
    const source = this.disk.placeOf(from);
    const target = this.disk.placeOf(to);
    const node = source.folder.entries.get(source.name);
    if (node === undefined) throw new DiskError('ENOENT', from);
    const replaced = target.folder.entries.get(target.name);
    if (replaced === node) return;
    if (replaced?.kind === 'folder') {
      if (node.kind === 'file') throw new DiskError('EISDIR', to);
      if (replaced.entries.size > 0) throw new DiskError('ENOTEMPTY', to);
    } else if (replaced !== undefined && node.kind === 'folder') throw new DiskError('ENOTDIR', to);
    changeNames([
      { ...target, node },
      { ...source, node: undefined },
    ]);
    if (replaced?.kind === 'file') this.#unlinked(replaced);
  }

  unlink(path: string): void {
    this.check('name', path);
    const { folder, name } = this.disk.placeOf(path);
    const node = folder.entries.get(name);
    if (node === undefined) throw new DiskError('ENOENT', path);
    if (node.kind === 'folder') throw new DiskError('EISDIR', path);
    changeNames([{ folder, name, node: undefined }]);
    this.#unlinked(node);
  }

  rmdir(path: string): void {
    this.check('name', path);
    const { folder, name } = this.disk.placeOf(path);
    const node = folder.entries.get(name);
    if (node === undefined) throw new DiskError('ENOENT', path);
    if (node.kind === 'file') throw new DiskError('ENOTDIR', path);
    if (node.entries.size > 0) throw new DiskError('ENOTEMPTY', path);
    changeNames([{ folder, name, node: undefined }]);
  }

  mkdir(path: string): void {
    this.check('name', path);
    const { folder, name } = this.disk.placeOf(path);
    if (folder.entries.has(name)) throw new DiskError('EEXIST', path);
    changeNames([{ folder, name, node: this.disk.newFolder() }]);
  }

  /** In no order that anybody could lean on, but the same for the same history. */
  readdir(path: string): string[] {
    this.check('read', path);
    return [...this.disk.folderAt(path).entries.keys()];
  }

  stat(path: string): DiskStat {
    this.check('read', path);
    const node = this.disk.nodeAt(path);
    if (node === undefined) throw new DiskError('ENOENT', path);
    return statOf(node);
  }

  /** The names in the folder are on the medium; what they lead to need not be. */
  fsyncFolder(path: string): void {
    this.check('syncFolder', path);
    syncNames(this.disk.folderAt(path));
  }

  /** flock of a file that is there: false when somebody (also this process) has it. It ends with `unlock` or the process. */
  tryLock(path: string): boolean {
    this.check('read', path);
    const file = this.disk.fileAt(path);
    if (file.lockedBy !== undefined) return false;
    file.lockedBy = this;
    this.#locks.add(file);
    return true;
  }

  unlock(path: string): void {
    this.check('read', path);
    const file = this.disk.fileAt(path);
    if (file.lockedBy !== this) throw new DiskError('EINVAL', path);
    file.lockedBy = undefined;
    this.#locks.delete(file);
  }

  /** Throws when the process is dead or the call is to fail. */
  check(call: DiskCall, path: string): void {
    this.#expectAlive(path);
    const code = this.disk.fault?.(call, path);
    this.#expectAlive(path); // the fault may have been a crash
    if (code !== undefined) throw new DiskError(code, path);
  }

  #expectAlive(path: string): void {
    if (this.#isDead) throw new DiskError('EKILLED', path);
  }

  #unlinked(file: SimulatedFile): void {
    file.links -= 1;
    this.disk.release(file);
  }
}

/** An open file: it stays the same file whatever happens to its name. */
export class SimulatedHandle {
  readonly path: string;
  readonly #process: SimulatedProcess;
  readonly #file: SimulatedFile;
  readonly #onClose: () => void;
  #isClosed = false;

  constructor(process: SimulatedProcess, file: SimulatedFile, path: string, onClose: () => void) {
    this.#process = process;
    this.#file = file;
    this.path = path;
    this.#onClose = onClose;
  }

  /** Fills `target` as far as the file goes; returns how many bytes that is. */
  pread(target: Uint8Array, byteOffset: number): number {
    this.#check('read');
    return this.#file.read(target, byteOffset);
  }

  /** Whether the range is in memory, so that a read of it would not wait. */
  isResident(byteOffset: number, byteLength: number): boolean {
    this.#check('read');
    return this.#file.isResident(byteOffset, byteLength);
  }

  makeResident(byteOffset: number, byteLength: number): void {
    this.#check('read');
    this.#file.makeResident(byteOffset, byteLength);
  }

  /** What is clean of the range leaves the memory. */
  dropFromMemory(byteOffset: number, byteLength: number): void {
    this.#check('read');
    this.#file.dropPages(byteOffset, byteLength);
  }

  /** Writes all of `source`; when it throws, a part may be there. */
  pwrite(source: Uint8Array, byteOffset: number): void {
    this.#check('write');
    this.#file.write(source, byteOffset);
    this.#file.modifiedAtMs = this.#process.disk.nowMs();
  }

  truncate(byteLength: number): void {
    this.#check('write');
    this.#file.setByteLength(byteLength);
    this.#file.modifiedAtMs = this.#process.disk.nowMs();
  }

  punch(byteOffset: number, byteLength: number, options: { readonly keepAllocated?: boolean } = {}): void {
    this.#check('write');
    this.#file.punch(byteOffset, byteLength, options.keepAllocated ?? false);
  }

  extents(byteOffset: number, byteLength: number): FileExtent[] {
    this.#check('read');
    return this.#file.extents(byteOffset, byteLength);
  }

  /** All that was written to the file, by anybody, is on the medium; its name need not be. */
  fsync(): void {
    try {
      this.#check('sync');
    } catch (error) {
      if (error instanceof DiskError && !this.#process.isDead && !this.#isClosed)
        this.#file.failSync(this.#process.disk.random);
      throw error;
    }
    this.#file.sync();
  }

  stat(): DiskStat {
    this.#check('read');
    return statOf(this.#file);
  }

  close(): void {
    if (this.#isClosed) return;
    if (this.#process.isDead) throw new DiskError('EKILLED', this.path);
    this.letGo();
    this.#onClose();
  }

  /** What the end of the process does. */
  letGo(): void {
    this.#isClosed = true;
    this.#file.opens -= 1;
    this.#process.disk.release(this.#file);
  }

  #check(call: DiskCall): void {
    if (this.#isClosed && !this.#process.isDead) throw new DiskError('EBADF', this.path);
    this.#process.check(call, this.path);
  }
}

const statOf = (node: Node): DiskStat =>
  node.kind === 'file'
    ? {
        kind: 'file',
        inode: node.inode,
        byteLength: node.byteLength,
        allocatedBytes: node.allocatedPages * PAGE_BYTES,
        modifiedAtMs: node.modifiedAtMs,
        links: node.links,
      }
    : { kind: 'folder', inode: node.inode, byteLength: 0, allocatedBytes: 0, modifiedAtMs: 0, links: 2 };

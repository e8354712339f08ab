/**
 * The user disk of the orders: a few places, each for one mark, in a disk whose other bytes never change. So a whole image can be judged: it
 * is the beginning with marks in their places, or it is wrong.
 */
/** A device writes its first mark to the first place, and so on; so two devices that went on from one state write to the same places. */
export const PLACES_MAX = 12;
/** A sector. */
const MARK_BYTES = 512;

/** The mark in each place; '': what the disk began with. */
export type Marks = readonly string[];
export const NO_MARKS: Marks = Array.from({ length: PLACES_MAX }, () => '');

export const withMark = (marks: Marks, place: number, mark: string): Marks =>
  marks.map((was, at) => (at === place ? mark : was));
export const areSame = (one: Marks, two: Marks): boolean => one.join() === two.join();

/** The mark as a sector. */
export const sectorOf = (mark: string): Buffer => Buffer.concat([Buffer.from(mark)], MARK_BYTES);

export class OrderDisk {
  readonly #initial: Buffer;
  /** From one place to the next. */
  readonly strideBytes: number;

  constructor(initial: Buffer, strideBytes: number) {
    if (initial.length < PLACES_MAX * strideBytes) throw new Error('the disk has too few places');
    this.#initial = initial;
    this.strideBytes = strideBytes;
  }

  /** Errors: an Error that says where a byte is one that nobody wrote. */
  marksOf(image: Buffer): Marks {
    if (image.length !== this.#initial.length)
      throw new Error(`the disk has ${image.length} bytes, not ${this.#initial.length}`);
    const expected = Buffer.from(this.#initial);
    const marks = NO_MARKS.map((_, place) => {
      const at = place * this.strideBytes;
      const sector = image.subarray(at, at + MARK_BYTES);
      if (sector.equals(expected.subarray(at, at + MARK_BYTES))) return '';
      const [mark = ''] = sector.toString('latin1').split('\0');
      sectorOf(mark).copy(expected, at);
      return mark;
    });
    if (!image.equals(expected)) {
      const wrong = image.findIndex((byte, at) => byte !== expected[at]);
      throw new Error(`byte ${wrong} of the disk is one that nobody wrote (marks ${marks.join()})`);
    }
    return marks;
  }
}

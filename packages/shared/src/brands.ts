/**
 * Numbers and strings that must not mix, as brands. A brand is put on in one place (a codec, a parser, a hash
 * function) and is then carried by the type checker alone.
 */
declare const brand: unique symbol;
export type Brand<T, Name extends string> = T & { readonly [brand]: Name };

/** SHA-256 or HMAC-SHA-256 as 64 lower-case hex digits: the name of a block, a map page or a manifest file. */
export type Digest = Brand<string, 'Digest'>;

/** Position of a block on its disk, in blocks of that disk. */
export type BlockIndex = Brand<number, 'BlockIndex'>;

const DIGEST = /^[0-9a-f]{64}$/;

export const isDigest = (text: string): text is Digest => DIGEST.test(text);
export const blockIndex = (index: number): BlockIndex => index as BlockIndex;

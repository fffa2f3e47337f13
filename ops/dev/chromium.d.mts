interface Chromium {
  path: string
  /** environment variables that it needs in addition */
  env: Record<string, string>
}
/**
 * Returns this machine's Chromium, or the unpacked one, or undefined. The environment variable CHROMIUM names another
 * path, or no browser if it is empty.
 */
export function findChromium(): Chromium | undefined
/** As findChromium, but unpacks a Chromium into the checkout if there is none. Throws an error that says why it cannot. */
export function ensureChromium(log: (line: string) => void): Chromium

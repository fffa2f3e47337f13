/** Starts a browser for tests of pages. Invariant: it connects only to the server of the pages. */
import { type Browser, chromium } from 'playwright-core'
import { findChromium } from '../../ops/dev/chromium.mjs'
import type { Scope } from './environment.ts'

/** `npm test` has installed one where that is possible. */
const found = findChromium()
const ARGS = `--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
  --disable-component-update --disable-sync`.split(/\s+/)

export const hasBrowser = found !== undefined

export async function openBrowser(t: Pick<Scope, 'teardown'>): Promise<Browser> {
  const { path = '', env = {} } = found ?? {}
  const browser = await chromium.launch({ executablePath: path, args: ARGS, env: { ...process.env, ...env } })
  t.teardown(() => browser.close())
  return browser
}

/** Starts this machine's browser for tests of pages. Invariant: it connects only to the server of the pages. */
import { existsSync } from 'node:fs'
import { type Browser, chromium } from 'playwright-core'
import type { Test } from 'tap'

/** Paths of Chromium on Debian, Ubuntu and Alpine. CHROMIUM names another path, or no browser if it is empty. */
const PLACES = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome']
const place = process.env.CHROMIUM ?? PLACES.find((path) => existsSync(path)) ?? ''
const ARGS = `--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
  --disable-component-update --disable-sync`.split(/\s+/)

export const hasBrowser = place !== ''

export async function openBrowser(t: Test): Promise<Browser> {
  const browser = await chromium.launch({ executablePath: place, args: ARGS })
  t.teardown(() => browser.close())
  return browser
}

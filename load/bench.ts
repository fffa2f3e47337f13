/**
 * `npm run bench [-- WHAT OPTIONS]`: purchases (the default), locks, bookings, versions or growth; each module
 * says what it measures and how.
 */
const [what = ''] = process.argv.slice(2)
const named = what !== '' && !what.startsWith('-')
if (named) process.argv.splice(2, 1)
if (!named || what === 'purchases') await import('./bench-purchases.ts')
else if (what === 'locks') await import('./bench-locks.ts')
else if (what === 'bookings') await import('./bench-bookings.ts')
else if (what === 'versions') await import('./bench-versions.ts')
else if (what === 'growth') await import('./bench-growth.ts')
else {
  process.stderr.write(
    `bench: there is no benchmark of ${what}; there are purchases, locks, bookings, versions and growth\n`,
  )
  process.exitCode = 1
}

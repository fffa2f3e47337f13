/** Templates of the page: preact with tagged templates, so that the browser runs the files as they are. */
import htm from './htm.js'
import { h } from './preact.js'

export const html = htm.bind(h)

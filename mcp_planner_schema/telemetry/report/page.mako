<!DOCTYPE html>
<html lang="en" data-state="${page.state}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>${page.title} · ${page.above}</title>
<style>${style | n}</style>
</head>
<body>
<a class="skip" href="#next">Skip to what to do next</a>
<header>
<p class="above">${page.above}</p>
<h1>${page.title}</h1>
<p class="summary">${page.summary}</p>
% if page.numbers:
<dl class="numbers">
% for number, what in page.numbers:
<div><dt>${what}</dt><dd>${number}</dd></div>
% endfor
</dl>
% endif
</header>
<nav aria-label="Sections">
<ul>
% for section in page.sections:
<li><a href="#${section.name}">${section.title}</a></li>
% endfor
</ul>
</nav>
<main>
% for section in page.sections:
<section id="${section.name}" aria-labelledby="${section.name}-title">
<h2 id="${section.name}-title">${section.title}</h2>
<div class="blocks">
% for block in section.blocks:
${{"Text": text, "Facts": facts, "Code": code, "Table": table, "Timeline": timeline, "Folded": folded}[type(block).__name__](block, f"{section.name}-{loop.index}") | n}\
% endfor
</div>
</section>
% endfor
</main>
<footer>${page.foot}</footer>
</body>
</html>
##
## Each block writes itself; what it calls for is escaped by the default filter, for it is never markup.
##
<%def name="text(block, name)" buffered="True">
<p>${block.text}</p>
</%def>
<%def name="facts(block, name)" buffered="True">
<dl class="facts">
% for fact, value in block.pairs:
<dt>${fact}</dt><dd>${value}</dd>
% endfor
</dl>
</%def>
<%def name="code(block, name)" buffered="True">
<p class="label" id="${name}">${block.label}</p>
<pre class="${"typed" if block.label == "Type" else "said"}" tabindex="0" role="region" aria-labelledby="${name}"><code>${block.text}</code></pre>
</%def>
<%def name="table(block, name)" buffered="True">
<div class="scroll" tabindex="0" role="region" aria-labelledby="${name}">
<table>
<caption id="${name}">${block.caption}</caption>
<thead><tr>
% for head, kind in block.heads:
<th scope="col" class="${kind}">${head}</th>
% endfor
</tr></thead>
<tbody>
% for row in block.rows:
<tr>
% for (head, kind), cell in zip(block.heads, row):
% if loop.first:
<th scope="row" class="${kind}">${cell}</th>
% else:
<td class="${kind}${" long" if len(cell) > 24 else ""}"${marked(kind, cell) | n}>${cell}</td>
% endif
% endfor
</tr>
% endfor
</tbody>
</table>
</div>
</%def>
<%def name="timeline(block, name)" buffered="True">
<figure class="timeline">
<figcaption>${caption(block)}</figcaption>
<div class="axis" aria-hidden="true"><span>${clock(block.begin)}</span><span>+${lasting(block.total / 2)}</span><span>+${lasting(block.total)}</span></div>
<ol role="list">
% for row in block.rows:
<li><span class="step"><b>${row.step.revision}</b> ${row.step.description or row.step.direction}</span> <span class="took">${lasting(row.step.duration)}</span>
<svg class="bars" width="100%" height="18" aria-hidden="true" focusable="false">
% for bar in row.bars:
<rect class="${bar.kind}" x="${bar.start}%" width="${bar.width}%" ${shapes[bar.kind] | n}/>
% endfor
</svg></li>
% endfor
</ol>
<p class="legend">
% for kind, what in (("work", "at work"), ("hold", "locks held"), ("wait", "waiting for a lock")):
<span><svg width="24" height="18" aria-hidden="true" focusable="false"><rect class="${kind}" x="1" width="22" ${shapes[kind] | n}/></svg>${what}</span>
% endfor
</p>
</figure>
</%def>
<%def name="folded(block, name)" buffered="True">
% if block.lines:
<details><summary><b>${block.sign}</b> ${block.title}</summary>
<pre tabindex="0" role="region" aria-label="${block.title}"><code>${"\n".join(block.lines)}</code></pre></details>
% else:
<p class="plain"><b>${block.sign}</b> ${block.title}</p>
% endif
</%def>

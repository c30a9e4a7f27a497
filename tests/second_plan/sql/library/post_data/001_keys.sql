ALTER TABLE authors ADD PRIMARY KEY (id);
ALTER TABLE books ADD PRIMARY KEY (id);
ALTER TABLE "Odd Table" ADD PRIMARY KEY ("select");
CREATE INDEX ON books (author_id);

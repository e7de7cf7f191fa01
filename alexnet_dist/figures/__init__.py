"""What a person looks at: the figures of a run and the page that holds them, made from the files of a run folder."""

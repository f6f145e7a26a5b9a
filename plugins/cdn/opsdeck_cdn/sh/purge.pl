# Remove the files of a cache of nginx whose key fits. Data comes on standard input: the folder, `whole` or `prefix`,
# then one wanted key (without what follows `|bytes=`) a line. perl-base is on every Debian; its modules are not.
use strict;
use warnings;

sub line { my $text = <STDIN>; $text = '' unless defined $text; chomp $text; return $text }

my $folder = line();
my $what = line();
my @wanted;
while (my $text = <STDIN>) { chomp $text; push @wanted, $text }
my %whole = map { $_ => 1 } @wanted;
my ($seen, $gone) = (0, 0);

sub judge {
    my ($path) = @_;
    open(my $file, '<:raw', $path) or return;
    read($file, my $head, 16384);
    close($file);
    $seen++;
    return unless $head =~ /\nKEY: ([^\n]*)\n/;
    my $key = $1;
    $key =~ s/\|(?:bytes=\d+-\d+)?\z//;
    my $fits = $what eq 'whole' ? $whole{$key} : grep { index($key, $_) == 0 } @wanted;
    $gone++ if $fits && unlink($path);
}

sub walk {
    my ($path) = @_;
    opendir(my $handle, $path) or return;
    my @names = readdir($handle);
    closedir($handle);
    for my $name (@names) {
        if ($name =~ /\A[0-9a-f]{1,2}\z/) { walk("$path/$name") }
        elsif ($name =~ /\A[0-9a-f]{32}\z/) { judge("$path/$name") }
    }
}

walk($folder);
print "seen $seen gone $gone\n";
